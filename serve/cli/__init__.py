"""The commands of `python -m serve`."""
