"""Serving a channel under gunicorn. The door of envtool to it; needs the extra `[web]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.console import answer
from envtool.errors import ChannelError, EnvtoolError

_NEEDS = "install envserve with its extra [web]"


@dataclass(frozen=True)
class Service:
    """How a channel is served.

    Args:
        bind: address and port; port 0 takes any that is free.
    """

    root: Path
    bind: str
    workers: int
    threads: int
    token: str | None


def serve(service: Service) -> None:
    """Serve until a signal ends it; the URL is printed once requests are answered.

    Raises:
        ChannelError: there is no channel in the directory.
        EnvtoolError: gunicorn or werkzeug is not installed.
    """
    if not any(service.root.glob("*/repodata.json")):
        raise ChannelError(f"{service.root} is no channel: no subdir has a repodata.json", "envtool channel index DIR")
    try:
        from gunicorn.app.base import BaseApplication

        from envtool.channel import wsgi
    except ImportError as error:
        raise EnvtoolError(f"a channel cannot be served: {error}", _NEEDS) from error

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in _settings(service).items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return wsgi.application(service.root, service.token)

    Application().run()


def _settings(service: Service) -> dict[str, Any]:
    return {
        "bind": service.bind,
        "workers": service.workers,
        "threads": service.threads,
        "worker_class": "gthread",
        "proc_name": "envtool channel serve",
        "when_ready": lambda arbiter: answer(f"{arbiter.LISTENERS[0]}/"),
        "loglevel": "warning",
    }
