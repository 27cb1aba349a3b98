"""A proxy on the loopback interface through which the solver reads repodata from whichever mirror has it whole. The
solver asks one mirror, and a 403, an HTML page, half a file or silence ends it; the proxy asks one after the other, by
the rules of downloads, and hands on only what is complete and plausible (a shard has a hash, its name). Its ETags name
the place with that place's validators: another one is never asked whether its file changed since the first one's
date."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import IO, Any
from urllib.parse import unquote

from envtool import console
from envtool.errors import EnvtoolError
from envtool.fetch import client
from envtool.fetch import failover as patience
from envtool.fetch.credentials import without_credentials
from envtool.fetch.failover import Failure, HostHealth, TransferError, ask_in_turn
from envtool.mirrors.mirrors import Mirrors

_OPTIONAL_ATTEMPTS = 2
_OPTIONAL_BACKOFF_S = 1.0
_LONG_WAIT_S = 3.0
_IN_MEMORY_BYTES = 1 << 20
_SHARD = re.compile(r"/([0-9a-f]{64})\.msgpack\.zst$")
# Other forms of the same records: without them the solver asks for repodata.json, which every channel has.
_OPTIONAL = re.compile(r"/repodata(_shards\.msgpack|\.json)\.zst$")
_NOT_FOUND, _NOT_MODIFIED = 404, 304
# The solver asks three times more before it takes this; older ones would take 4xx for a channel without records.
_FAILED = 502
_CONDITIONS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass
class _Found:
    """An answer that may be handed on."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: IO[bytes] | None = None


class RepodataProxy:
    """Serves the canonical URLs of some channels, on a port of its own, until the process ends."""

    def __init__(self, mirrors: Mirrors) -> None:
        self._mirrors = mirrors
        self._patience = patience.configured_timeouts()
        self._failures: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._is_patient = False
        self._hosts = HostHealth()
        # Other users of the machine reach the port too; they cannot guess the path.
        secret = secrets.token_urlsafe(16)
        self._prefixes = {f"/{secret}/{number}/": prefix for number, prefix in enumerate(mirrors.by_prefix)}
        server = _Server(("127.0.0.1", 0), _Handler)
        server.relay = self
        base = f"http://127.0.0.1:{server.server_address[1]}"
        # Each canonical prefix, and the only place that is to be asked for it.
        self.by_prefix = {prefix: [base + path] for path, prefix in self._prefixes.items()}
        threading.Thread(target=client.prepare, name="relay: imports", daemon=True).start()
        threading.Thread(target=server.serve_forever, name="relay", daemon=True).start()

    @property
    def failures(self) -> Iterator[str]:
        """What could not be downloaded from anywhere, each with every mirror's reason."""
        with self._lock:
            failed = dict(self._failures)
        return (
            f"{without_credentials(url)}\n" + "\n".join(f"  {reason}" for reason in reasons)
            for url, reasons in failed.items()
        )

    def find(self, path: str, etag: str | None, is_wanted: bool) -> _Found:
        """Ask each place in turn for what changed since the copy of this ETag, with its bytes if they are wanted."""
        own = next((each for each in self._prefixes if path.startswith(each)), None)
        if own is None:
            return _Found(_NOT_FOUND)
        url = self._prefixes[own] + path[len(own) :]
        if url.endswith(".bz2"):
            return _Found(_NOT_FOUND)  # as conda does: no server has this form alone
        with self._lock:
            if url in self._failures:
                return _Found(_FAILED)  # every place was asked often enough
        is_optional = bool(_OPTIONAL.search(url))
        statuses: dict[str, int | None] = {}
        found: list[_Found] = []

        def ask(place: str, has_alternative: bool) -> Failure | None:
            # A mirror that answers lacks this form of the records and has another: no need to wait.
            is_superfluous = is_optional and _NOT_FOUND in statuses.values()
            if is_superfluous and self._hosts.is_down(place):
                return Failure("not asked again", is_transient=False)
            try:
                found.append(self._ask(place, etag, is_wanted, has_alternative))
            except TransferError as error:
                if error.status == _NOT_MODIFIED:
                    # Without its ETag the solver would forget what its copy is a copy of.
                    found.append(_Found(_NOT_MODIFIED, {"ETag": etag or ""}))
                    return None
                statuses[place] = error.status
                self._hosts.note(place, error, time.monotonic())
                return Failure(error.reason, error.is_transient and not is_superfluous, error.retry_after_s)
            self._hosts.note(place, None, time.monotonic())
            return None

        places = self._mirrors.for_url(url)
        patience = self._patience
        if is_optional and len(places) > 1:
            # Another place may have the records in the form that every channel has, at once.
            patience = patience._replace(attempts=_OPTIONAL_ATTEMPTS, max_wait_s=0.0, max_backoff_s=_OPTIONAL_BACKOFF_S)
        failed = ask_in_turn(places, ask, self._wait, self._hosts, patience)
        if found:
            return found[0]
        if is_optional or all(statuses.get(place.url) == _NOT_FOUND for place in failed):
            return _Found(_NOT_FOUND)
        busy = f"not asked, since it wants to be left alone for more than {self._patience.max_wait_s:g} s"
        with self._lock:
            self._failures[url] = [f"{without_credentials(each.url)}: {each.reason or busy}" for each in failed]
        return _Found(_FAILED)

    def fail(self, path: str, error: Exception) -> _Found:
        """Note what keeps this machine from asking, such as a full disk, as the reason why a file is missing."""
        url = next((self._prefixes[each] + path[len(each) :] for each in self._prefixes if path.startswith(each)), path)
        with self._lock:
            self._failures[url] = [str(error)]
        return _Found(_FAILED)

    def _ask(self, place: str, etag: str | None, is_wanted: bool, has_alternative: bool) -> _Found:
        limits = self._patience if has_alternative else self._patience._replace(min_bytes_per_s=0.0)
        with client.get(place, patience=limits, headers=_conditions(place, etag)) as body:
            headers = {**body.validators, "ETag": _etag_of(place, body.validators)}
            headers.pop("Last-Modified", None)
            if not is_wanted:
                return _Found(200, headers)
            content = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - the handler closes it
            size_bytes = sum(content.write(chunk) for chunk in body.chunks)
            if body.total_bytes not in (None, size_bytes):
                raise TransferError(f"broken off after {size_bytes} of {body.total_bytes} bytes", is_transient=True)
            _require_whole(unquote(place), content, size_bytes)
            content.seek(0)
            return _Found(200, {**headers, "Content-Length": str(size_bytes)}, content)

    def _wait(self, seconds: float) -> None:
        with self._lock:
            is_first, self._is_patient = not self._is_patient, True
        if is_first and seconds >= _LONG_WAIT_S:
            console.say(f"  every place of the channels' records is busy or failing; asked again in {seconds:.0f} s")
        time.sleep(seconds)


def _etag_of(place: str, validators: Mapping[str, str]) -> str:
    own = [without_credentials(place), {name: validators[name] for name in _CONDITIONS if name in validators}]
    return f'"{base64.urlsafe_b64encode(json.dumps(own).encode()).decode()}"'


def _conditions(place: str, etag: str | None) -> dict[str, str]:
    """The headers that ask a place for a file only if it has changed; none if the copy came from another place."""
    try:
        source, validators = json.loads(base64.urlsafe_b64decode((etag or "").strip('"')))
    except (ValueError, TypeError):
        return {}  # no copy, or one that an earlier version of envtool kept
    if source != without_credentials(place):
        return {}
    return {_CONDITIONS[name]: value for name, value in validators.items()}


def _require_whole(place: str, content: Any, size_bytes: int) -> None:
    """Refuse what cannot be the file: half of it, or something else."""
    shard = _SHARD.search(place)
    if shard:
        content.seek(0)
        digest = hashlib.sha256()
        while chunk := content.read(client.CHUNK_BYTES):
            digest.update(chunk)
        if digest.hexdigest() != shard[1]:
            raise TransferError("other bytes than its name states", is_transient=False)
    elif place.endswith(".zst"):
        _require_frame(content)
    elif place.endswith(".json"):
        content.seek(max(0, size_bytes - 64))
        if not content.read().rstrip().endswith((b"}", b"]")):
            raise TransferError("no JSON, or not all of it", is_transient=False)


def _require_frame(content: Any) -> None:
    import zstandard

    content.seek(0)
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        while not frame.eof and (chunk := content.read(client.CHUNK_BYTES)):
            frame.decompress(chunk)
    except zstandard.ZstdError as error:
        raise TransferError("no zstd file", is_transient=False) from error
    if not frame.eof:
        raise TransferError("not all of the zstd file", is_transient=False)


class _Server(ThreadingTCPServer):  # an HTTPServer asks the name service what 127.0.0.1 is called
    # The solver opens a connection for each file of each subdir at once; the default queue of 5 would refuse some.
    request_queue_size = 128
    daemon_threads = True
    relay: RepodataProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when the solver hangs up: it has what it needs, or it has given up and reports it itself."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        try:
            found = server.relay.find(self.path, self.headers["If-None-Match"], self.command == "GET")
        except (EnvtoolError, OSError) as error:
            found = server.relay.fail(self.path, error)
        try:
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in found.headers and found.status != _NOT_MODIFIED:
                self.send_header("Content-Length", "0")
            self.end_headers()
            if found.content is not None:
                with found.content as content:
                    shutil.copyfileobj(content, self.wfile, client.CHUNK_BYTES)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the solver has what it wants, or has given up

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; what fails is reported when the solver has ended."""
