"""The one door to the network: the bytes behind a URL, from an offset on, or the reason why there are none.

Proxies, netrc and CA bundles are taken from the environment, as requests does. Time-outs are per read, never one for a
whole body, so that a slow line is no error and a silent server is one. What to do about a failure is not decided here
but in `envtool.fetch`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from envtool.errors import NetworkError

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_threads = threading.local()


class TransferError(NetworkError):
    """A URL that did not give its bytes.

    Args:
        reason: Why, for people.
        is_transient: Whether the same URL may well work a moment later.
        retry_after_s: How long the server asks to wait, in seconds.
    """

    def __init__(self, reason: str, *, is_transient: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Body:
    """The bytes of a URL on their way.

    Args:
        offset: The position of the first byte that comes; 0 when the server ignored the range.
        total_bytes: The size of the whole file, where the server says it.
        chunks: The bytes.
    """

    offset: int
    total_bytes: int | None
    chunks: Iterator[bytes]


def without_credentials(url: str) -> str:
    """The URL as it may be shown or written: without user name, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def to_path(url: str) -> Path:
    """The file that a file:// URL names."""
    return Path(unquote(urlsplit(url).path))


@contextmanager
def get(url: str, offset: int = 0) -> Iterator[Body]:
    """Open a URL (http, https or file) for reading from an offset on.

    Args:
        url: What to read.
        offset: The first byte that is wanted; a server that ignores it starts at 0, and `Body.offset` says so.

    Yields:
        The body. Reading it raises the same error as opening it.

    Raises:
        TransferError: The URL did not give its bytes.
    """
    if urlsplit(url).scheme == "file":
        with _open_file(url, offset) as body:
            yield body
    else:
        with _open_http(url, offset) as body:
            yield body


@contextmanager
def _open_file(url: str, offset: int) -> Iterator[Body]:
    path = to_path(url)
    try:
        with path.open("rb") as file:
            total_bytes = path.stat().st_size
            file.seek(offset)
            yield Body(offset, total_bytes, iter(lambda: file.read(CHUNK_BYTES), b""))
    except OSError as error:
        raise TransferError(error.strerror or str(error), is_transient=False) from error


@contextmanager
def _open_http(url: str, offset: int) -> Iterator[Body]:
    import requests

    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        with _session().get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
            _refuse_unusable(response)
            start, total_bytes = _extent(response, offset)
            yield Body(start, total_bytes, _read(response))
    except requests.exceptions.Timeout as error:
        raise TransferError("no answer in time", is_transient=True) from error
    except requests.exceptions.SSLError as error:
        raise TransferError(f"TLS failed: {_innermost(error)}", is_transient=False) from error
    except requests.exceptions.ConnectionError as error:
        raise TransferError(f"no connection: {_innermost(error)}", is_transient=True) from error
    except requests.exceptions.RequestException as error:
        raise TransferError(str(error), is_transient=False) from error


def _read(response: requests.Response) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
            yield chunk
    except ReadTimeoutError as error:
        raise TransferError(f"silent for {READ_TIMEOUT_S:.0f} s", is_transient=True) from error
    except (HTTPError, OSError) as error:
        raise TransferError(f"broken off: {error}", is_transient=True) from error


def _refuse_unusable(response: requests.Response) -> None:
    status = response.status_code
    if status not in (200, 206):
        raise TransferError(
            f"HTTP {status} {response.reason}".rstrip(),
            is_transient=status in _TRANSIENT,
            retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise TransferError("an HTML page instead of the file", is_transient=False)


def _retry_after_s(header: str | None) -> float | None:
    # The HTTP date form is rare enough to be treated like no header at all.
    return float(header) if header and header.isdigit() else None


def _extent(response: requests.Response, offset: int) -> tuple[int, int | None]:
    length = response.headers.get("Content-Length")
    count = int(length) if length and length.isdigit() else None
    if response.status_code == 200:
        return 0, count
    content_range = response.headers.get("Content-Range", "")
    start, _, total = content_range.removeprefix("bytes ").partition("-")[0], "", content_range.rpartition("/")[2]
    if start != str(offset):
        raise TransferError(f"a range that was not asked for: {content_range!r}", is_transient=False)
    return offset, int(total) if total.isdigit() else None


def _session() -> requests.Session:
    # requests does not promise that a session may be shared between threads, so each has its own.
    import requests

    session: requests.Session | None = getattr(_threads, "session", None)
    if session is None:
        session = requests.Session()
        session.headers["User-Agent"] = "envtool"
        _threads.session = session
    return session


def _innermost(error: BaseException) -> str:
    reason: object = error
    while isinstance(reason, BaseException) and (
        inner := getattr(reason, "reason", None) or next(iter(reason.args), None)
    ):
        if not isinstance(inner, (BaseException, str)):
            break
        reason = inner
    return str(reason).rpartition(": ")[2] or type(error).__name__
