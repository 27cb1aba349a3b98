"""The package index that this machine is set up for: uv's own variables first, then pip's variables and files, which uv
does not read. An index that the user named stays the only one: its packages may be others than the public ones of the
same names. Source: pip documentation, "Configuration"."""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from envtool.fetch import credentials
from envtool.mirrors import mirrors as mirrors_module
from envtool.mirrors.mirrors import AUTO, Mirrors, presets, select, with_slash

# The index keeps each file under the digits of its BLAKE2b-256, and full mirrors keep that path.
_FILE_PATH = re.compile(r"/packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+$")
_UV_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")


def uv_environment() -> dict[str, str]:
    """The variables that make uv ask the index that pip would ask; empty when uv's own are set or none is."""
    if any(os.environ.get(name) for name in _UV_VARIABLES):
        return {}
    url = os.environ.get("PIP_INDEX_URL") or _configured("index-url")
    return {"UV_DEFAULT_INDEX": url} if url else {}


def index_of_machine() -> str | None:
    """The index that uv or pip were set up for here, None where uv would ask the public one."""
    own = next((os.environ[name] for name in _UV_VARIABLES if os.environ.get(name)), None)
    return own or uv_environment().get("UV_DEFAULT_INDEX")


def _of_pip(name: str) -> str | None:
    # Its URLs are not in our sources; uv does not report them, and pip is in nearly every environment.
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return None
    return str(getattr(PyPI, name))


def index_variables(index_url: str | None, extra_index_urls: Sequence[str]) -> dict[str, str]:
    """The variables that make uv ask the indexes that an environment.yml names, with their credentials; everybody can
    read the arguments of a process. Raises EnvtoolError if a variable in a URL is not set."""
    variables: dict[str, str] = {}
    if index_url:
        # Of the older variable there may be another value in our environment; an empty one takes it away.
        variables.update(UV_DEFAULT_INDEX=credentials.expand(index_url), UV_INDEX_URL="")
    if extra_index_urls:
        variables["UV_INDEX"] = " ".join(credentials.expand(extra_index_url) for extra_index_url in extra_index_urls)
    return variables


def only(index_url: str | None, extra_index_urls: Sequence[str]) -> dict[str, str]:
    """The variables that make uv ask these indexes and no other. Raises EnvtoolError as `index_variables`."""
    *first, last = (*extra_index_urls, *([index_url] if index_url else [])) or (None,)
    nothing_else = dict.fromkeys(("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"), "")
    return {**nothing_else, "UV_NO_CONFIG": "1", **index_variables(last, [each for each in first if each])}


def canonical(url: str, mirrors: Mirrors) -> str:
    """The URL of a wheel for a lock, without mirror and credentials. A full mirror keeps the index's own paths, by
    which its files are known; of any other the configuration has to state what it stands for."""
    url = mirrors.canonical(credentials.strip(url))
    path = _FILE_PATH.search(urlsplit(url).path)
    host = _of_pip("file_storage_domain")
    return f"https://{host}{path[0]}" if path and host else url


def _configured(key: str) -> str | None:
    explicit = os.environ.get("PIP_CONFIG_FILE")
    if explicit == os.devnull:
        return None
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf"]
    files += [user / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf", *([Path(explicit)] if explicit else [])]
    value = None
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself complains about such a file; here it only has nothing to say
        for section in ("global", "install"):
            value = parser.get(section, key, fallback=value)
    return value


# Words of uv when an index fails, rather than the requirements. The last three are what it makes of a mirror
# that lacks a package, and of a page that is none of an index.
_FAILURES = (
    "error sending request", "dns error", "timed out", "connection closed", "HTTP status client error",
    "HTTP status server error", "Failed to fetch", "Failed to download", "client error", "invalid peer certificate",
    "error decoding response body", "Missing `Content-Type` header", "was not found in the package registry",
    "was not found in the provided package locations", "there are no versions of",
)  # fmt: skip


def index_candidates(index_url: str | None, mirrors: Mirrors) -> tuple[str | None, ...]:
    """The indexes to be asked one after the other, the best first; None means whatever uv asks by itself."""
    own = index_url or index_of_machine()
    public = _of_pip("simple_url")  # None where pip is not installed, which knows its URL
    url = own or public
    if url is None:
        return (None,)  # without the public index's URL, nothing can be said to stand for it
    configured = mirrors.for_url(with_slash(url))
    places: tuple[str | None, ...] = (index_url,) if configured == (with_slash(url),) else configured
    names = mirrors_module.used()
    if not names:
        return places
    known = presets()
    used = list(known.values()) if names == (AUTO,) else select(names)
    chosen = [with_slash(each.pypi) for each in used if each.pypi]
    public_ones = {with_slash(each) for each in (public, *(preset.pypi for preset in known.values())) if each}
    if index_url is not None or not chosen or not (own is None or with_slash(own) in public_ones):
        return places
    if own is not None:  # what pip or uv are set up for comes first, since somebody chose that as well
        return (*places, *(each for each in chosen if each not in (with_slash(own), *places)))
    mirrored = [place for place in places if place not in (None, with_slash(url))]
    return tuple(dict.fromkeys([*mirrored, *chosen, *([None] if mirrors.has_origin else [])]))


def is_index_failure(output: str) -> bool:
    """Whether it was the index that failed, by the output of uv, and not that nothing satisfies the requirements."""
    return any(each in output for each in _FAILURES)
