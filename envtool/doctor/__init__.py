"""Checks of a machine: what would make an environment fail, found out before it does."""
