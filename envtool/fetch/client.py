"""The one door to the network: the bytes behind a URL, from an offset on, or the reason why there are none.

Time-outs are per read, never one for a whole body: a slow line is no error, a silent server is one. Out of scope: what
to do about a failure (`envtool.fetch.failover_policy`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from envtool.errors import EnvtoolError
from envtool.fetch import file_urls
from envtool.fetch.authentication import authorize, without_credentials, without_secrets
from envtool.fetch.timeouts import Timeouts
from envtool.fetch.transfer_error import RangeError, TransferError, seconds_to_wait

if TYPE_CHECKING:  # commands without network access do without them
    from urllib3.response import HTTPResponse

    from envtool.fetch.http import Response

__all__ = ["CHUNK_BYTES", "Body", "RangeError", "TransferError", "get", "without_credentials"]

CHUNK_BYTES = 1 << 20
_SMALL_CHUNK_BYTES = 1 << 14
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_VALIDATORS = ("ETag", "Last-Modified", "Cache-Control", "Expires", "Date")
_HTML_STARTS = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Body:
    """The bytes of a URL on their way."""

    offset: int
    total_bytes: int | None
    chunks: Iterator[bytes]
    url: str
    validators: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def get(
    url: str, offset: int = 0, patience: Timeouts | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[Body]:
    """Open a URL (http, https or file) for reading from an offset on.

    Args:
        offset: the first byte that is wanted; a server that ignores it starts at 0, as `Body.offset` shows.

    Yields:
        The body. Reading it raises the same errors as opening it.

    Raises:
        TransferError: the URL did not give its bytes.
        RangeError: it gave another part of them than was asked for.
    """
    if urlsplit(url).scheme == "file":
        with file_urls.read(url, offset, CHUNK_BYTES) as (total_bytes, chunks):
            yield Body(offset, total_bytes, chunks, url)
        return
    limits = patience or Timeouts()
    with _ask(url, offset, limits, headers or {}) as answer:
        yield _body(answer, offset, limits)


def prepare() -> None:
    """Import what the first request will need, so that another thread can go on with something else."""
    import urllib.request  # noqa: F401

    import urllib3  # noqa: F401

    import envtool.fetch.http  # noqa: F401


def date(url: str, patience: Timeouts) -> str | None:
    """The Date header of a server, whatever else it answers."""
    with _ask(url, 0, patience, {}) as answer:
        return answer.raw.headers.get("Date")


def _ask(url: str, offset: int, patience: Timeouts, more: Mapping[str, str]) -> Response:
    from urllib3.exceptions import HTTPError

    from envtool.fetch import http

    try:
        request = authorize(url)
    except EnvtoolError as error:
        raise TransferError(error.message, is_transient=False) from error
    headers = {"Accept-Encoding": "identity", **more}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        return http.ask(request, headers, patience)
    except (HTTPError, ValueError) as error:  # a server may redirect to something that is not a URL
        raise _no_answer(error) from error


def _no_answer(error: Exception) -> TransferError:
    from urllib3 import exceptions

    # Before urllib3 2 a connection that is refused was one that took too long as well.
    is_refused = isinstance(error, exceptions.NewConnectionError)
    if isinstance(error, exceptions.TimeoutError) and not is_refused:
        return TransferError("no answer in time", is_transient=True, is_down=True)
    if isinstance(error, exceptions.SSLError):
        return TransferError(f"TLS failed: {_innermost(error)}", is_transient=False, is_down=True)
    if is_refused or isinstance(error, (exceptions.ProxyError, exceptions.ProtocolError)):
        if _is_unresolved(error):
            return TransferError("the host name is not known (DNS)", is_transient=True, is_down=True)
        return TransferError(f"no connection: {_innermost(error)}", is_transient=True, is_down=True)
    return TransferError(without_secrets(f"{type(error).__name__}: {_innermost(error)}"), is_transient=False)


def _body(answer: Response, offset: int, patience: Timeouts) -> Body:
    response = answer.raw
    _refuse_unusable(response)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    path = urlsplit(answer.url).path
    # Some servers call a .tar.gz file itself an encoding of a .tar; its bytes are the file.
    is_decoded = encoding in _DECODED and not path.endswith((".gz", ".tgz"))
    if is_decoded and response.status == 206:
        raise RangeError("a part of a compressed transfer, which fits nothing", is_transient=False)
    start, total_bytes = _extent(response, offset)
    chunks = _read(response, patience, is_decoded=is_decoded)
    validators = {name: response.headers[name] for name in _VALIDATORS if name in response.headers}
    return Body(start, None if is_decoded else total_bytes, _refuse_html(chunks, start), answer.url, validators)


def _read(response: HTTPResponse, patience: Timeouts, *, is_decoded: bool) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    window_began_s, window_bytes = time.monotonic(), 0
    # read1 gives what has come; read waits until a whole chunk is there, so that it must be a small one for a trickle
    # to be seen. urllib3 has read1 since 2.1, and before Python 3.10 botocore holds urllib3 below that.
    read = getattr(response, "read1", None)
    size_bytes = CHUNK_BYTES if read else _SMALL_CHUNK_BYTES
    read = read or response.read
    try:
        while chunk := read(size_bytes, decode_content=is_decoded):
            yield chunk
            window_bytes += len(chunk)
            elapsed_s = time.monotonic() - window_began_s
            if elapsed_s >= patience.read_timeout_s:
                if window_bytes < patience.min_bytes_per_s * elapsed_s:
                    raise TransferError(f"too slow: {window_bytes / elapsed_s:.0f} bytes a second", is_transient=True)
                window_began_s, window_bytes = time.monotonic(), 0
    except ReadTimeoutError as error:
        raise TransferError(f"silent for {patience.read_timeout_s:g} s", is_transient=True, is_down=True) from error
    except (HTTPError, OSError) as error:
        raise TransferError(f"broken off: {_innermost(error)}", is_transient=True) from error


def _refuse_html(chunks: Iterator[bytes], start: int) -> Iterator[bytes]:
    first = next(chunks, b"")
    if start == 0 and first.lstrip()[:16].lower().startswith(_HTML_STARTS):
        raise TransferError("an HTML page instead of the file", is_transient=False)
    if first:
        yield first
        yield from chunks


def _refuse_unusable(response: HTTPResponse) -> None:
    status = response.status
    if status == 416:
        raise RangeError("HTTP 416, the server does not have this range", is_transient=False, status=status)
    if status not in (200, 206):
        raise TransferError(
            f"HTTP {status} {response.reason}".rstrip(),
            is_transient=status in _TRANSIENT,
            retry_after_s=seconds_to_wait(response.headers.get("Retry-After")),
            status=status,
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise TransferError("an HTML page instead of the file", is_transient=False, status=status)


def _extent(response: HTTPResponse, offset: int) -> tuple[int, int | None]:
    length = response.headers.get("Content-Length")
    count = int(length) if length and length.isdigit() else None
    if response.status == 200:
        return 0, count
    content_range = response.headers.get("Content-Range", "")
    start, total = content_range.removeprefix("bytes ").partition("-")[0], content_range.rpartition("/")[2]
    if start.strip() != str(offset):
        raise RangeError(f"a range that was not asked for: {content_range!r}", is_transient=False)
    return offset, int(total) if total.isdigit() else None


def _is_unresolved(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, socket.gaierror) or "NameResolution" in type(error).__name__:
            return True
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        # urllib3 before version 2 has the reason only as what was being handled.
        error = inner if isinstance(inner, BaseException) else error.__context__
    return False


def _innermost(error: BaseException) -> str:
    reason: object = error
    while isinstance(reason, BaseException) and (
        inner := getattr(reason, "reason", None) or next((a for a in reversed(reason.args) if a), None)
    ):
        if not isinstance(inner, (BaseException, str)):
            break
        reason = inner
    return without_secrets(str(reason).rpartition(": ")[2]) or type(error).__name__
