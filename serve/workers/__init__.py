"""gunicorn worker classes."""
