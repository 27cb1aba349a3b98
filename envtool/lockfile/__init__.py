"""Values of a lock file that every other package may read, and the conda-lock v1 format."""
