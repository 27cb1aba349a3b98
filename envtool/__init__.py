"""Locks a conda environment, makes any machine's prefix equal to the lock, and proves it; `serve` is the other half."""
