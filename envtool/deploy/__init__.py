"""Serving on real machines: the files that other tools want, and releases that replace each other under traffic."""
