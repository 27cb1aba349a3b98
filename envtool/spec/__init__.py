"""environment.yml: its values, and the reader that turns text into them."""
