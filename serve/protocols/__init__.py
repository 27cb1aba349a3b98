"""One module for each dialect that clients speak."""
