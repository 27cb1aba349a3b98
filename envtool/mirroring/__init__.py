"""Mirrors: which there are, how quick they are, and the configuration files that name them."""
