"""Bundles: an environment in one file or directory, for a machine with nothing but Python."""
