"""Comparison of a prefix with its lock, file by file."""
