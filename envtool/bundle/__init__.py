"""Bundles: an environment in one file, or one directory, for a machine that has no network and nothing but Python.

`manifest`, `format` and `bootstrap` travel inside of the bundle and need nothing but the standard library.
"""
