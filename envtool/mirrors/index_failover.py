"""Which package indexes stand for one another, and when the next one is asked.

Out of scope: an index that somebody named stays the only one. Its packages may be others than the public ones of the
same names, so that asking a public mirror instead would install a stranger's.
"""

from __future__ import annotations

from collections.abc import Mapping

from envtool.mirrors import mirrors as mirrors_module
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors
from envtool.mirrors.presets import presets, select
from envtool.mirrors.selection import AUTO

# What uv says when an index fails, rather than the requirements. The last three are what it makes of a mirror
# that lacks a package, and of a page that is none of an index.
_FAILURES = (
    "error sending request",
    "dns error",
    "timed out",
    "connection closed",
    "HTTP status client error",
    "HTTP status server error",
    "Failed to fetch",
    "Failed to download",
    "client error",
    "invalid peer certificate",
    "error decoding response body",
    "Missing `Content-Type` header",
    "was not found in the package registry",
    "was not found in the provided package locations",
    "there are no versions of",
)


def candidates(index_url: str | None, mirrors: Mirrors) -> tuple[str | None, ...]:
    """The indexes to be asked, one after the other until one answers.

    Returns:
        URLs, the best first; None means whatever uv asks by itself.

    Raises:
        InvalidFileError: config.toml is malformed.
        MissingFileError: it names a preset that is not there.
    """
    own = index_url or pip_index.index_of_machine()
    public = pip_index.public_index()
    url = own or public
    if url is None:
        return (None,)  # without the public index's URL, nothing can be said to stand for it
    configured = mirrors.for_url(_closed(url))
    places: tuple[str | None, ...] = (index_url,) if configured == (_closed(url),) else configured
    chosen = _of_presets()
    if index_url is not None or not chosen or not (own is None or _is_public(own, public)):
        return places
    if own is not None:  # what pip or uv are set up for comes first, since somebody chose that as well
        return (*places, *(each for each in chosen if each not in (_closed(own), *places)))
    mirrored = [each for each in places if each not in (None, _closed(url))]
    return tuple(dict.fromkeys([*mirrored, *chosen, *([None] if mirrors.has_origin else [])]))


def is_failure(output: str) -> bool:
    """Whether it was the index that failed, by what uv says, and not that nothing satisfies the requirements."""
    return any(each in output for each in _FAILURES)


def limits(is_last: bool, read_timeout_s: float) -> Mapping[str, str]:
    """Variables by which uv gives up on an index soon, as long as there is another one to ask."""
    return {} if is_last else {"UV_HTTP_TIMEOUT": f"{max(1, round(read_timeout_s))}", "UV_HTTP_RETRIES": "1"}


def _of_presets() -> tuple[str, ...]:
    names = mirrors_module.used()
    if not names:
        return ()
    known = list(presets().values()) if names == (AUTO,) else select(names)
    return tuple(_closed(each.pypi) for each in known if each.pypi)


def _is_public(url: str, public: str | None) -> bool:
    known = {_closed(each.pypi) for each in presets().values() if each.pypi}
    return _closed(url) in known or (public is not None and _closed(url) == _closed(public))


def _closed(url: str) -> str:
    return url.rstrip("/") + "/"
