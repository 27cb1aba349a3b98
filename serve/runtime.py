"""One worker's parts, put together: settings in, slot and reloader out.

Building a runtime starts nothing and imports no torch; `start` does, in the worker, after the fork.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Callable

from serve.commit import Committer, Loader
from serve.errors import ModelError
from serve.logs import EventLog
from serve.place import Place
from serve.provenance import read_env_digest
from serve.reloader import Reloader
from serve.settings import Settings
from serve.slot import Slot
from serve.store import Store

_STOP_WAIT_S = 2.0


class Runtime:
    """What the application of one worker works with.

    Args:
        settings: how to serve.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.env_digest = read_env_digest(os.environ, Path(sys.prefix))
        self.log = EventLog({"model": settings.name, "env_digest": self.env_digest})
        self.slot = Slot()
        committer = Committer(Store(settings.store), self.slot, self.log, settings.name, self.env_digest, settings.keep)
        self.reloader = Reloader(
            Place(settings.checkpoints),
            committer,
            self.log,
            settings.poll_s,
            settings.settle_s,
            settings.watch == "auto",
            self._make_loader,
        )
        self._thread: threading.Thread | None = None

    @property
    def is_reloading(self) -> bool:
        """Whether the reloader's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the reloader's thread in this process, once.

        Threads do not survive a fork, so this belongs into gunicorn's `post_worker_init`.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self.reloader.run, name="reloader", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the reloader's thread, so that the interpreter does not go away under torch's feet.

        A load that is under way is waited for only a little; the process ends in any case.
        """
        if self._thread is not None:
            self.reloader.stop()
            self._thread.join(_STOP_WAIT_S)

    def wait_until_booted(self, is_wanted: Callable[[], bool]) -> None:
        """Wait until a committed generation is live again, or cannot be.

        A worker that replaces a dead one takes no requests meanwhile; its siblings do. On a host that has committed
        nothing there is nothing to wait for, and requests are told so.

        Args:
            is_wanted: asked ten times a second whether to go on waiting.
        """
        until_s = time.monotonic() + self.settings.boot_wait_s
        while is_wanted() and time.monotonic() < until_s and not self.reloader.booted.wait(0.1):
            continue

    def _make_loader(self) -> Loader:
        # Here and not above: this import brings torch, and only a worker may have it (forking after torch has used
        # threads hangs the child: pytorch#49555).
        try:
            from serve.model import ModelLoader
        except ImportError as error:
            raise ModelError(
                f"{error.name or 'a library'} cannot be imported: {error}",
                hint="install torch and safetensors into the environment that runs gunicorn",
            ) from error
        return ModelLoader(self.settings, self.slot, self.log.emit)
