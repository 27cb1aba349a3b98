"""Package archives: download, read, list, write, relocate."""
