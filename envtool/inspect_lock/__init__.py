"""Questions about locks: difference, dependency tree, package metadata."""
