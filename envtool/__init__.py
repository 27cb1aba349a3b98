"""Locks a conda environment, makes any machine's prefix equal to the lock, and proves it.

Out of scope: serving models (the package `serve`), which neither imports this one nor is imported by it.
"""
