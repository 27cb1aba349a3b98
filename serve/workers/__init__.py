"""Under gunicorn: connections, threads, batches, and an end that fails nobody."""
