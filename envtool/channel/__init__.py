"""The embedded channel: recipes with pinned hashes become a conda channel in a directory.

`recipe` says what to build, `apt` and `deb` bring Debian's packages, `cpython` and `wheel` make a `payload.Package`,
`archive` writes it as a `.conda` file, `index` writes the repodata, and `build` does all of it once.
"""
