"""From environment.yml to conda-lock.yml: what is asked for, what is chosen; and reading locks again."""
