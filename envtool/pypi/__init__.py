"""Python packages from a package index, through uv."""
