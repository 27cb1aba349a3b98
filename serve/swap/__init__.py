"""The reloader and the commit that moves all workers to a new generation at one instant."""
