"""The settings: their keys, their layers, their values."""
