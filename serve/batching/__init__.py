"""Batches of requests that wait for one model."""
