"""Proven bytes: from a URL, over a line that breaks, into a cache that many share."""
