"""Routes, the request lifecycle, and the WSGI and ASGI applications."""
