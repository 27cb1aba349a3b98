"""The channel and the subdir that a match spec names (`pytorch::pytorch`, `pkg[channel=pkgs/main, subdir=noarch]`): one
of environment.yml's, by name, URL or end of the URL. Source: CEP 29, "MatchSpec"; conda/models/channel.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

CANONICAL_CHANNELS = "https://conda.anaconda.org"
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_PREFIX = re.compile(r"^(?P<channel>[^\s\[]+?)?::|^(?P<with_namespace>[^\s:\[=]+):[^\s:\[=]*:(?=\w)")
_KEY = re.compile(r"""(?P<key>channel|subdir)\s*=\s*(?P<quote>["']?)(?P<value>[^"',\]\s]+)(?P=quote)\s*,?\s*""")
_BRACKET = re.compile(r"\[[^\]]*\]\s*$")
_SUBDIR = re.compile(r"noarch|(linux|osx|win|freebsd|emscripten|wasi|zos)-[a-z0-9]+")


class Restricted(NamedTuple):
    """A match spec taken apart (`channel`: the channel as it is written, None where none is)."""

    text: str
    channel: str | None = None
    subdir: str | None = None

    def in_channel(self, url: str | None) -> str:
        """The match spec as the solver takes it (`url`: the URL of the channel, None for any)."""
        if url is None:
            return self.text
        key = f'channel="{url}"'
        return f"{self.text[:-1].rstrip()}, {key}]" if self.text.endswith("]") else f"{self.text}[{key}]"


def parse(match_spec: str) -> Restricted:
    """Take a match spec apart."""
    prefix = _PREFIX.match(match_spec.strip())
    text = match_spec.strip()[prefix.end() :] if prefix else match_spec.strip()
    channel = (prefix["channel"] or prefix["with_namespace"]) if prefix else None
    bracket = _BRACKET.search(text)
    keys = {each["key"]: each["value"] for each in _KEY.finditer(bracket[0])} if bracket else {}
    if bracket and keys:
        left = _KEY.sub("", bracket[0]).strip().rstrip(",] ")
        text = text[: bracket.start()].rstrip() + (f"{left.rstrip(', ')}]" if left != "[" else "")
    channel = (channel or keys.get("channel") or "").rstrip("/") or None
    head, _, last = (channel or "").rpartition("/")
    subdir = keys.get("subdir")
    if head and _SUBDIR.fullmatch(last):
        channel, subdir = head, subdir or last
    return Restricted(text, None if channel == "*" else channel, subdir)


def channel_urls(channel: str, base: Path) -> Sequence[str]:
    """The URLs of a channel as a user names it: a name, a URL or a path relative to the file that names it."""
    if channel == "defaults":
        return DEFAULTS
    if "://" in channel:
        return (channel.rstrip("/"),)
    if channel.startswith((".", "/", "~")):
        return ((base / Path(channel).expanduser()).resolve().as_uri(),)
    if channel.startswith("pkgs/"):
        return (f"{DEFAULTS[0].rpartition('/pkgs/')[0]}/{channel}",)
    return (f"{CANONICAL_CHANNELS}/{channel}",)


def find_channel(restricted: Restricted, name: str, channels: Sequence[str], base: Path) -> str | None:
    """The URL of the listed channel that a match spec names, None if it is not listed; paths are relative to `base`."""
    wanted = restricted.channel or ""
    listed = [url for channel in channels for url in channel_urls(channel, base)]
    same = [url for url in channel_urls(wanted, base) if url in listed]
    if len(same) > 1:
        is_r = name in ("r", "rstudio") or name.startswith(("r-", "_r-"))
        return same[is_r]
    if same or "://" in wanted:
        return next(iter(same), None)
    # A channel with a URL of its own is known by the end of it as well.
    named = [url for url in listed if f"/{urlsplit(url).path.strip('/')}".endswith(f"/{wanted}")]
    return next(iter(named), None)
