"""Prefixes: made equal to a lock, used, and proven to be so."""
