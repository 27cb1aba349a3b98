"""Mirrors of conda channels and package indexes: presets, selection, benchmark, configuration."""
