"""Requests and responses, routes, admission and drain; knows no model."""
