"""Channels of conda packages: directories with an index, checked, signed, served, mirrored, and built from recipes."""
