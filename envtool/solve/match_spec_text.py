"""The parts of a match spec as conda itself writes them, for the hash of the sources.

Source: conda/models/match_spec.py `_parse_spec_str`, conda/models/version.py `VersionSpec` and `treeify`, conda 24.7.1.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_KEY_VALUE = re.compile(r"""([a-zA-Z0-9_-]+?)=(["']?)([^'"]*?)(\2)(?:[, ]|$)""")
_VERSION_AND_BUILD = re.compile(r"((?:.+?)[^><!,|]?)(?:(?<![=!|,<>~])(?:[ =])([^-=,|<>~]+?))?$")
_TOKENS = re.compile(r"\s*\^[^$]*[$]|\s*[()|,]|[^()|,]+")
_DEFAULTS = ("pkgs/main", "pkgs/r")
_SUBDIR = re.compile(r"/(?:noarch|(?:linux|osx|win|freebsd|zos|emscripten|wasi)-[a-z0-9]+)$")


class MatchSpecText(NamedTuple):
    """The parts of a match spec or None; a version is `1.2.*` for `=1.2`, `1.2` for `==1.2`, and a range as it is."""

    name: str
    version: str | None
    build: str | None
    channel: str | None


def parse(text: str) -> MatchSpecText:
    """The parts of a match spec that `envtool.spec` has accepted."""
    text = text.partition("#")[0].partition(" if ")[0]
    brackets: dict[str, str] = {}
    for opening, closing in (("[", "]"), ("(", ")")):
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))  # the last one, as conda's greedy pattern finds it
        if 0 <= start < end:
            found = {key: value for key, _, value, _ in _KEY_VALUE.findall(text[start + 1 : end]) if value}
            brackets.update(found if opening == "[" else {})
            text = text.replace(text[start : end + 1], "")
    channel, _, text = ["", "", *text.rsplit(":", 2)][-3:]
    match = re.match(r"([^ =<>!~]+)?([><!=~ ].+)?", text)
    name, rest = (match[1] or "", (match[2] or "").strip()) if match else (text, "")
    version, build = _version_and_build(rest) if rest else (None, None)
    version, build = brackets.get("version", version), brackets.get("build", build)
    channel = brackets.get("channel", channel)
    return MatchSpecText(name.lower(), version and _normal(version), build, _canonical(channel) if channel else None)


def _version_and_build(text: str) -> tuple[str, str | None]:
    match = _VERSION_AND_BUILD.search(text)
    version, build = (match[1].replace(" ", ""), match[2]) if match else (text.replace(" ", ""), None)
    build = build.strip() if build else None
    rest = version[1:]
    if not version.startswith("=") or version in ("=", "=="):
        return version, build
    if version.startswith("==") and build is None:
        return version[2:], build
    if not any(character in rest for character in "=,|"):
        return (f"{rest}*" if build is None and not rest.endswith("*") else rest), build
    return version, build


def _normal(version: str) -> str:
    # Each alternative by itself; the parentheses between them get lost in conda's own text.
    return "".join(each if each in "|," else _leaf(each) for each in map(str.strip, _TOKENS.findall(version)))


def _leaf(version: str) -> str:
    if version[:1] in ("=", "<", ">", "!", "~") or version in ("*", "(", ")") or "*" in version.rstrip("*"):
        return version.strip("()")
    return f"{version[:-1]}.*" if version.endswith("*") and not version.endswith(".*") else version


def _canonical(channel: str) -> str:
    # conda takes a channel's path for its name, whatever its host is.
    url = urlsplit(channel)
    path = re.sub(r"^/t/[^/]+/", "/", url.path) if url.scheme else channel
    name = _SUBDIR.sub("", path.rstrip("/")).strip("/")
    if url.scheme == "file":
        name = name.rpartition("/")[2]
    return "defaults" if name in _DEFAULTS else name or channel
