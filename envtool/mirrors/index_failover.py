"""Package indexes that stand for one another, and the failures after which the next one is asked.

An index that the user named stays the only one: its packages may be others than the public ones of the same names.
"""

from __future__ import annotations

from collections.abc import Mapping

from envtool.mirrors import mirrors as mirrors_module
from envtool.mirrors import pip_index
from envtool.mirrors.mirrors import Mirrors, with_slash
from envtool.mirrors.presets import presets, select
from envtool.mirrors.selection import AUTO

# Words of uv when an index fails, rather than the requirements. The last three are what it makes of a mirror
# that lacks a package, and of a page that is none of an index.
_FAILURES = (
    "error sending request", "dns error", "timed out", "connection closed", "HTTP status client error",
    "HTTP status server error", "Failed to fetch", "Failed to download", "client error", "invalid peer certificate",
    "error decoding response body", "Missing `Content-Type` header", "was not found in the package registry",
    "was not found in the provided package locations", "there are no versions of",
)  # fmt: skip


def candidates(index_url: str | None, mirrors: Mirrors) -> tuple[str | None, ...]:
    """The indexes to be asked, one after the other until one answers.

    Returns:
        URLs, the best first; None means whatever uv asks by itself.
    """
    own = index_url or pip_index.index_of_machine()
    public = pip_index.public_index()
    url = own or public
    if url is None:
        return (None,)  # without the public index's URL, nothing can be said to stand for it
    configured = mirrors.for_url(with_slash(url))
    places: tuple[str | None, ...] = (index_url,) if configured == (with_slash(url),) else configured
    chosen = _of_presets()
    if index_url is not None or not chosen or not (own is None or _is_public(own, public)):
        return places
    if own is not None:  # what pip or uv are set up for comes first, since somebody chose that as well
        return (*places, *(each for each in chosen if each not in (with_slash(own), *places)))
    mirrored = [each for each in places if each not in (None, with_slash(url))]
    return tuple(dict.fromkeys([*mirrored, *chosen, *([None] if mirrors.has_origin else [])]))


def is_failure(output: str) -> bool:
    """Whether it was the index that failed, by the output of uv, and not that nothing satisfies the requirements."""
    return any(each in output for each in _FAILURES)


def limits(is_last: bool, read_timeout_s: float) -> Mapping[str, str]:
    """Variables by which uv gives up on an index soon, as long as there is another one to ask."""
    return {} if is_last else {"UV_HTTP_TIMEOUT": f"{max(1, round(read_timeout_s))}", "UV_HTTP_RETRIES": "1"}


def _of_presets() -> tuple[str, ...]:
    names = mirrors_module.used()
    if not names:
        return ()
    known = list(presets().values()) if names == (AUTO,) else select(names)
    return tuple(with_slash(each.pypi) for each in known if each.pypi)


def _is_public(url: str, public: str | None) -> bool:
    known = {with_slash(each.pypi) for each in presets().values() if each.pypi}
    return with_slash(url) in known or (public is not None and with_slash(url) == with_slash(public))
