"""From environment.yml to a lock: solvers, update, staleness, the content hash."""
