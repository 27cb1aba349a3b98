"""Bundles: an environment in one file, or one directory, for a machine that has no network and nothing but Python.

`manifest` says what is in a bundle, `container` reads and writes both of its forms, `tools` chooses what envtool itself
needs there, `creation` and `installation` do the work, and `bootstrap` runs first on the other machine. `manifest`,
`container` and `bootstrap` travel inside of the bundle and need nothing but the standard library.
"""
