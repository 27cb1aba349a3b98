"""Wheel files: reading, their requirements and tags, conversion to conda packages."""
