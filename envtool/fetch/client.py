"""The one door to the network: the bytes behind a URL, from an offset on, or the reason why there are none. Requests go
by urllib3, with the environment's proxies, certificates and passwords, as requests would send them (docs/adr/0014);
threads share connections. Time-outs are per read: a slow line is no error, a silent server is one.
`file:///srv/serving.pyz#bytes=512-1536` is a part of a file, up to the byte before the second number. Out of scope:
cookies, and what to do about a failure (`envtool.fetch.failover`)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from envtool.errors import EnvtoolError
from envtool.fetch.credentials import authorize, from_netrc, from_user, without_secrets
from envtool.fetch.failover import RangeError, Timeouts, TransferError

if TYPE_CHECKING:
    from urllib3 import PoolManager
    from urllib3.response import HTTPResponse

_PART = re.compile(r"bytes=(\d+)-(\d+)")


def part_url(path: Path, start: int, size_bytes: int) -> str:
    """The URL of a part of a file."""
    return f"{path.absolute().as_uri()}#bytes={start}-{start + size_bytes}"


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(error.strerror or str(error), is_transient=False) from error


def _chunks(file: BinaryIO, left_bytes: int) -> Iterator[bytes]:
    with _disk_errors():
        while left_bytes > 0 and (chunk := file.read(min(CHUNK_BYTES, left_bytes))):
            left_bytes -= len(chunk)
            yield chunk


def proxy_for(url: str) -> str | None:
    """The URL of the proxy, None where the host is asked itself."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    parts = urlsplit(url)
    host = parts.hostname or ""
    keys = (f"{parts.scheme}://{host}", parts.scheme, f"all://{host}", "all")
    proxy = next((proxies[key] for key in keys if key in proxies), None)
    if not proxy or _is_excepted(host, parts.port) or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_excepted(host: str, port: int | None) -> bool:
    names = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        with_port = f"{host}:{port}" if port else host
        known = [name.lstrip(".") for name in names if name]
        return any(f".{place}".endswith(f".{name}") for name in known for place in (host, with_port))
    return any(name == host or _holds(name, address) for name in names)


def _holds(network: str, address: ipaddress.IPv4Address) -> bool:
    try:
        return "/" in network and address in ipaddress.IPv4Network(network, strict=False)
    except ValueError:
        return False


def trusting(bundle: str | None) -> ssl.SSLContext:
    """A context that checks names and certificates of servers. Raises TransferError if there are no certificates."""
    import certifi
    from urllib3.util.ssl_ import create_urllib3_context

    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    place = bundle or certifi.where()
    try:
        context.load_verify_locations(**({"capath": place} if Path(place).is_dir() else {"cafile": place}))
    except OSError as error:
        reason = f"TLS failed: no certificates can be read from {place}"
        raise TransferError(reason, is_transient=False, is_down=True) from error
    return context


_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 30
_DEFAULT_PORTS = {"http": 80, "https": 443}
# More than there are threads: a pool that is full says so on standard error.
_CONNECTIONS, _HOSTS = 128, 100
_managers: dict[tuple[Any, ...], PoolManager] = {}
_lock = threading.Lock()


@contextmanager
def _asked(url: str, offset: int, patience: Timeouts, more: Mapping[str, str]) -> Iterator[tuple[HTTPResponse, str]]:
    """The answer to a request, and the URL that it came from after all redirects."""
    from urllib3 import Timeout
    from urllib3.exceptions import HTTPError

    headers = {"User-Agent": "envtool", "Accept": "*/*", "Connection": "keep-alive", "Accept-Encoding": "identity"}
    headers.update(more, **({"Range": f"bytes={offset}-"} if offset else {}))
    timeout = Timeout(connect=patience.connect_timeout_s, read=patience.read_timeout_s)
    try:
        url, authorization = authorize(url)
        answer, url = _follow(_without_user(url), authorization, headers, timeout)
    except TransferError:
        raise
    except EnvtoolError as error:
        raise TransferError(error.message, is_transient=False) from error
    except (HTTPError, ValueError) as error:  # a server may redirect to something that is not a URL
        raise _no_answer(error) from error
    try:
        yield answer, url
    finally:
        _let_go(answer, has_no_body=answer.status == 304)


def _follow(url: str, authorization: str | None, headers: Mapping[str, str], timeout: Any) -> tuple[HTTPResponse, str]:
    for _ in range(_MOST_REDIRECTS + 1):
        sent = {**headers, "Authorization": authorization} if authorization else headers
        answer: Any = _manager(url).urlopen(
            "GET", url, headers=sent, redirect=False, retries=False, preload_content=False, timeout=timeout
        )
        location = answer.headers.get("Location") if answer.status in _REDIRECTS else None
        if location is None:
            return answer, url
        _let_go(answer, has_no_body=answer.headers.get("Content-Length") == "0")
        target = urljoin(url, quote(location.encode("latin1"), safe="!#$%&'()*+,/:;=?@[]~"))
        authorization = from_netrc(target) or (authorization if _is_same_place(url, target) else None)
        url = _without_user(target)
    raise TransferError(f"redirected more than {_MOST_REDIRECTS} times", is_transient=False)


def _let_go(answer: HTTPResponse, *, has_no_body: bool) -> None:
    # A body is not waited for: it might never end. Without one, the connection can be used again.
    if has_no_body:
        answer.drain_conn()
    answer.close()
    answer.release_conn()


def _without_user(url: str) -> str:
    # A proxy is shown the URL as it stands.
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _is_same_place(before: str, after: str) -> bool:
    """Whether a secret of one URL may be sent to another. Source: requests/sessions.py, `should_strip_auth`."""
    old, new = urlsplit(before), urlsplit(after)
    if old.hostname != new.hostname:
        return False
    old_port, new_port = (parts.port or _DEFAULT_PORTS.get(parts.scheme) for parts in (old, new))
    is_secured = (old.scheme, old_port, new.scheme, new_port) == ("http", 80, "https", 443)
    return is_secured or (old.scheme, old_port) == (new.scheme, new_port)


def _manager(url: str) -> PoolManager:
    is_secure = urlsplit(url).scheme == "https"
    proxy = proxy_for(url)
    bundle = next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), None)
    key = (proxy, bundle, is_secure)
    with _lock:
        if key not in _managers:
            _managers[key] = _made(proxy, bundle, is_secure=is_secure)
        return _managers[key]


def _made(proxy: str | None, bundle: str | None, *, is_secure: bool) -> PoolManager:
    from urllib3 import PoolManager, ProxyManager

    settings: dict[str, Any] = {"num_pools": _HOSTS, "maxsize": _CONNECTIONS}
    if is_secure:
        settings["ssl_context"] = trusting(bundle)
    if proxy is None:
        return PoolManager(**settings)
    parts = urlsplit(proxy)
    if parts.scheme.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        user, password = (None if each is None else unquote(each) for each in (parts.username, parts.password))
        return SOCKSProxyManager(proxy, username=user, password=password, **settings)
    if parts.scheme == "https":
        settings["proxy_ssl_context"] = trusting(bundle)
    who = from_user(proxy)
    return ProxyManager(proxy, proxy_headers={"Proxy-Authorization": who} if who else None, **settings)


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
    """Open a URL (http, https or file) for reading from an offset on; a server that ignores it starts at 0, as
    `Body.offset` shows. Raises TransferError if the URL did not give its bytes, RangeError if it gave another part of
    them; so does reading."""
    if urlsplit(url).scheme == "file":
        with contextlib.ExitStack() as stack:
            with _disk_errors():  # the caller's own errors pass through here as well, so that only opening is caught
                file = stack.enter_context(Path(unquote(urlsplit(url).path)).open("rb"))
                part = _PART.fullmatch(urlsplit(url).fragment)
                start, end = (int(part[1]), int(part[2])) if part else (0, file.seek(0, os.SEEK_END))
                file.seek(start + offset)
            yield Body(offset, end - start, _chunks(file, end - start - offset), url)
        return
    limits = patience or Timeouts()
    with _asked(url, offset, limits, headers or {}) as (response, place):
        status = response.status
        if status == 416:
            raise RangeError("HTTP 416, the server does not have this range", is_transient=False, status=status)
        if status not in (200, 206):
            raise TransferError(
                f"HTTP {status} {response.reason}".rstrip(),
                is_transient=status in _TRANSIENT,
                retry_after_s=_seconds_to_wait(response.headers.get("Retry-After")),
                status=status,
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise TransferError("an HTML page instead of the file", is_transient=False, status=status)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        # Some servers call a .tar.gz file itself an encoding of a .tar; its bytes are the file.
        is_decoded = encoding in _DECODED and not urlsplit(place).path.endswith((".gz", ".tgz"))
        if is_decoded and response.status == 206:
            raise RangeError("a part of a compressed transfer, which fits nothing", is_transient=False)
        start, total_bytes = _extent(response, offset)
        chunks = _read(response, limits, has_begun=start > 0, is_decoded=is_decoded)
        validators = {name: response.headers[name] for name in _VALIDATORS if name in response.headers}
        yield Body(start, None if is_decoded else total_bytes, chunks, place, validators)


def prepare() -> None:
    """Import what the first request will need, so that another thread can go on with something else."""
    import urllib.request  # noqa: F401

    import urllib3  # noqa: F401


def date(url: str, patience: Timeouts) -> str | None:
    """The Date header of a server, whatever else it answers."""
    with _asked(url, 0, patience, {}) as (answer, _):
        return answer.headers.get("Date")


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


def _read(response: HTTPResponse, patience: Timeouts, *, has_begun: bool, is_decoded: bool) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    window_began_s, window_bytes = time.monotonic(), 0
    # read1 gives what has come; read waits until a whole chunk is there, so that it must be a small one for a trickle
    # to be seen. urllib3 has read1 since 2.1, and before Python 3.10 botocore holds urllib3 below that.
    read = getattr(response, "read1", None)
    size_bytes = CHUNK_BYTES if read else _SMALL_CHUNK_BYTES
    read = read or response.read
    try:
        while chunk := read(size_bytes, decode_content=is_decoded):
            if not has_begun and chunk.lstrip()[:16].lower().startswith(_HTML_STARTS):
                raise TransferError("an HTML page instead of the file", is_transient=False)
            has_begun = True
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


def _seconds_to_wait(header: str | None) -> float | None:
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(header)) if header else None
    except (InvalidHeader, ValueError, OverflowError):  # such as a date of the year 99999
        return None


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
