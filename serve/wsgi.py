"""The WSGI application for gunicorn: `serve.wsgi:app`.

It takes the settings that the master read, so that a settings file that is broken later cannot break a new worker."""

from __future__ import annotations

from serve.gateway.flask_app import create_app
from serve.gunicorn_conf import drain, served

app = create_app(served, drain)
