"""The first minutes: try a model class out, serve it while it is being written, start a project."""
