"""Checkpoint bytes and what they state: formats, manifests, shards, signatures, provenance."""
