"""Wheels that are built from commits of git, to the same bytes on every machine."""
