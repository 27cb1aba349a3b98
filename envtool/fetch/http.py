"""One request and its redirects, by urllib3: through the environment's proxies, with its certificates and passwords.

The environment counts as it does for requests (docs/adr/0014). Connections are shared by all threads. Out of scope:
cookies, which no mirror needs, and what an answer means (`envtool.fetch.client`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from envtool.fetch.authentication import Authorized, from_netrc, from_user, header_of
from envtool.fetch.proxies import proxy_for
from envtool.fetch.timeouts import Timeouts
from envtool.fetch.transfer_error import TransferError

if TYPE_CHECKING:
    from urllib3 import PoolManager
    from urllib3.response import HTTPResponse

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 30
_DEFAULT_PORTS = {"http": 80, "https": 443}
# More than there are threads: a pool that is full says so on standard error.
_CONNECTIONS, _HOSTS = 128, 100
_managers: dict[tuple[Any, ...], PoolManager] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Response:
    """What a server answers; used as a context manager, that lets its connection go."""

    raw: HTTPResponse
    url: str

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.raw.status == 304:
            self.raw.drain_conn()  # it has no body, and its connection can be used again
        self.raw.close()
        self.raw.release_conn()


def ask(request: Authorized, headers: Mapping[str, str], patience: Timeouts) -> Response:
    """Ask for a URL, and for what it redirects to."""
    from urllib3 import Timeout

    url, authorization = _without_user(request.url), header_of(request)
    timeout = Timeout(connect=patience.connect_timeout_s, read=patience.read_timeout_s)
    common = {"User-Agent": "envtool", "Accept": "*/*", "Connection": "keep-alive", **headers}
    for _ in range(_MOST_REDIRECTS + 1):
        sent = {**common, "Authorization": authorization} if authorization else common
        raw: Any = _manager(url).urlopen(
            "GET", url, headers=sent, redirect=False, retries=False, preload_content=False, timeout=timeout
        )
        location = raw.headers.get("Location") if raw.status in _REDIRECTS else None
        if location is None:
            return Response(raw, url)
        # A body is not waited for: it might never end.
        if raw.headers.get("Content-Length") == "0":
            raw.drain_conn()  # so that the connection can be used again
        raw.close()
        raw.release_conn()
        target = urljoin(url, quote(location.encode("latin1"), safe="!#$%&'()*+,/:;=?@[]~"))
        authorization = from_netrc(target) or (authorization if _is_same_place(url, target) else None)
        url = _without_user(target)
    raise TransferError(f"redirected more than {_MOST_REDIRECTS} times", is_transient=False)


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

    from envtool.fetch.tls import trusting

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
