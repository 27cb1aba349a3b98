"""Ed25519 signatures of channels, and the keys that are trusted."""
