"""CPython and Python packages as conda packages of the embedded channel."""
