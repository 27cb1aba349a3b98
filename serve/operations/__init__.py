"""Operators' views and requests."""
