"""Settings from serve.toml and SERVE_ variables."""
