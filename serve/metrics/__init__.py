"""Metrics for Prometheus: counted where it happens, added up over all workers of a server when it asks."""
