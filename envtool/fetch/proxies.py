"""The choice of a proxy for a URL from `https_proxy`, `all_proxy`, `no_proxy` and their upper-case twins.

As other programs read them: `no_proxy` names hosts and domains, with a port or without, and addresses or networks in
IPv4. Source: requests/utils.py, `should_bypass_proxies` and `select_proxy`.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit


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
