"""Recording of a share of the requests with their answers, in a bounded file in the model's store.

A request is kept as golden requests are, whichever protocol it came by. What the user's own `record_redact` makes of it
is all that reaches the disk. The work happens in one thread; while it is behind, nothing is kept."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pkgutil
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from serve import durable_files
from serve.errors import Issue, SettingsError
from serve.swap.background_task import give_way

if TYPE_CHECKING:
    from serve.checkpoint.provenance import Provenance
    from serve.settings.settings import Settings

RECORDED = "recorded.jsonl"
_WAITING = 64
_NICENESS = 10
_LARGEST_BYTES = 1024 * 1024
_LOG_EVERY = 1000
_SLACK = 2  # the file has at most so many times `record_keep` lines before the older ones go


class NativeInputs:
    """Stands where a request expects a predictor, and gives its inputs as JSON has them."""

    @staticmethod
    def prepare(inputs: object) -> object:
        """Give inputs that came as JSON."""
        return inputs

    @staticmethod
    def prepare_arrays(arrays: Mapping[str, Any]) -> object:
        """Give inputs that came as arrays: the lists of the only one, or of each by its name."""
        lists = {name: array.tolist() for name, array in arrays.items()}
        return next(iter(lists.values())) if len(lists) == 1 else lists

    @staticmethod
    def prepare_image(pixels: object) -> object:
        """Refuse an image, which JSON does not have; raises `TypeError`."""
        raise TypeError("images are not recorded")


class Recorder:
    """Records requests of one label of a model, in a thread that starts with the first one; raises `SettingsError`."""

    def __init__(self, settings: Settings, report: Callable[..., None]) -> None:
        self._path, self._keep = settings.store / RECORDED, settings.record_keep
        self._share, self._redact_name = settings.record_share, settings.record_redact
        self._report, self._failed, self._uncounted = report, 0, 0
        self._cipher = load_cipher(settings.record_key)
        self._left = self._draw()
        self._waiting: queue.Queue[Callable[[], Mapping[str, object]]] = queue.Queue(_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def is_due(self) -> bool:
        """Count a request, and decide whether it is to be recorded."""
        self._left -= 1
        return self._left <= 0

    def offer(self, prepare: Callable[[Any], Any], outputs: object, provenance: Provenance) -> None:
        """Have a request that is due recorded, if there is time for it."""
        self._left = self._draw()
        facts = {
            "time": time.time(), "version": provenance.version, "generation": provenance.generation,
            "sha256": provenance.sha256, "env_digest": provenance.env_digest,
        }  # fmt: skip

        def describe() -> Mapping[str, object]:
            return {"inputs": prepare(NativeInputs), "outputs": outputs, **facts}

        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                self._thread.start()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(describe)

    def _draw(self) -> int:
        """Draw after how many requests the next one is recorded, so that each has the same chance."""
        return 1 if self._share >= 1 else 1 + int(math.log(1.0 - random.random()) / math.log(1.0 - self._share))  # noqa: S311

    def _run(self) -> None:
        give_way(_NICENESS)
        while True:
            describe = self._waiting.get()
            try:
                recorded: Mapping[str, object] | None = describe()
                if self._redact_name:
                    recorded = pkgutil.resolve_name(self._redact_name)(recorded)
                if recorded is not None:
                    line = json.dumps(recorded, allow_nan=False, separators=(",", ":")).encode()
                    self._write((line if self._cipher is None else self._cipher.encrypt(line)) + b"\n")
            except Exception as error:  # the user's code may raise anything; what it did not pass is not written
                self._failed += 1
                if self._failed % _LOG_EVERY == 1:
                    self._report("record_failed", reason=f"{type(error).__name__}: {error}", count=self._failed)

    def _write(self, line: bytes) -> None:
        if len(line) > _LARGEST_BYTES:
            raise ValueError(f"expected at most {_LARGEST_BYTES} bytes, found {len(line)}")
        with durable_files.hold(self._path.with_suffix(".lock")):
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                size_bytes = os.fstat(descriptor).st_size
                # A worker that was killed, or a full disk, has left half a line; this one is not to be part of it.
                is_whole = not size_bytes or os.pread(descriptor, 1, size_bytes - 1) == b"\n"
                file.write(line if is_whole else b"\n" + line)
            self._uncounted -= 1
            if self._uncounted <= 0:
                self._uncounted = self._keep // 8
                self._drop_older()

    def _drop_older(self) -> None:
        kept: deque[bytes] = deque(maxlen=self._keep)
        with self._path.open("rb") as file:
            count = sum(1 for _ in map(kept.append, file))
        if count > _SLACK * self._keep:
            temporary = self._path.with_suffix(".part")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as part:
                part.writelines(kept)
            temporary.replace(self._path)


def load_cipher(key_file: Path | None) -> Any:
    """Return what encrypts and decrypts lines (Fernet: AES-128 in CBC with HMAC-SHA256); `None` without a key."""
    if key_file is None:
        return None
    try:
        from cryptography.fernet import Fernet

        return Fernet(key_file.read_bytes().strip())
    except (ImportError, OSError, ValueError) as error:
        hint = 'pip install "envserve[sign]"; openssl rand -base64 32 | tr +/ -_ > KEYFILE makes a key'
        raise SettingsError([Issue("record_key", f"{key_file}: expected a usable key: {error}", hint)]) from error


def read_recorded(path: Path, keep: int, key_file: Path | None = None) -> list[dict[str, Any]]:
    """Read the last `keep` requests that were recorded and that the key opens; raises `SettingsError` by the key."""
    cipher = load_cipher(key_file)
    found: deque[dict[str, Any]] = deque(maxlen=keep)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(Exception):  # what a worker that was killed has left, or another key has written
                stated = json.loads(line if cipher is None or line.startswith(b"{") else cipher.decrypt(line.strip()))
                if isinstance(stated, dict) and {"inputs", "outputs"} <= stated.keys():
                    found.append(stated)
    return list(found)
