"""What about this machine would make an environment fail, found out before it does."""
