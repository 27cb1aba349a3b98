"""Wheels built from git commits."""
