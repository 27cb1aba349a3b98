"""What both halves are made of: `envtool` and `serve` import it, and never each other."""
