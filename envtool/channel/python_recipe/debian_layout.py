"""Where the files of a Debian package go in a prefix, and which paths in their texts go with them.

`usr/` is the prefix, and the directories of one architecture (`lib/x86_64-linux-gnu`) are those of all. Programs for
administrators and games lie beside the others, since an environment has one directory of programs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Set

from envtool.artifacts.conda_package import PLACEHOLDER

_TRIPLET = r"[a-z0-9_]+-linux-gnu[a-z0-9]*"
_TOPS = {"sbin": "bin", "games": "bin", "lib64": "lib", **{each: each for each in (
    "bin", "lib", "libexec", "share", "include", "etc", "src")}}  # fmt: skip
_OF_ONE_ARCHITECTURE = re.compile(rf"(lib|include)/{_TRIPLET}(?=/|$)")
_PATH = re.compile(rb"(?<![\w./}$+@-])/(?:usr/)?(?:bin|sbin|games|lib64|libexec|lib|share|include|etc)/[\w./+@-]+")
_PKG_CONFIG = ((re.compile(rb"^prefix=/usr$", re.MULTILINE), f"prefix={PLACEHOLDER}".encode()),
               (re.compile(rf"/{_TRIPLET}(?=/|$)".encode(), re.MULTILINE), b""))  # fmt: skip
# What is read by people, and what says nothing about where a program looks.
_DOCUMENTS = ("share/doc", "share/man", "share/info", "share/locale")


def place(path: str) -> str | None:
    """Where a path of a Debian system is in a prefix, relative to it; None where no prefix has a place for it."""
    top, slash, inner = path.removeprefix("usr/").partition("/")
    if top not in _TOPS:
        return None
    return _OF_ONE_ARCHITECTURE.sub(r"\1", f"{_TOPS[top]}{slash}{inner}", count=1)


def link_target(path: str, target: str) -> str | None:
    """What a link of a Debian system says in a prefix; None where it leads out of it.

    Args:
        path: The link.
        target: What it says on Debian, absolute or relative to its directory.
    """
    start, absolute = place(path), target.lstrip("/") if target.startswith("/") else None
    end = place(absolute if absolute is not None else posixpath.normpath(f"{posixpath.dirname(path)}/{target}"))
    if start is None or end is None:
        return None
    return posixpath.relpath(end, posixpath.dirname(start))


def directories(paths: Iterable[str]) -> set[str]:
    """The directories of paths that a package has for itself: those below `share`, `lib` and the like."""
    parents = {"/".join(parts[:end]) for parts in (path.split("/") for path in paths) for end in range(2, len(parts))}
    return {each for each in parents if not each.startswith(_DOCUMENTS)}


def with_placeholder(path: str, content: bytes, known: Set[str]) -> bytes:
    """A text with its paths in the prefix.

    Args:
        path: Where it is in the prefix.
        content: The text.
        known: Files and directories of the prefix that may be meant; other paths stay the machine's.
    """
    if path.startswith(_DOCUMENTS) or b"\0" in content:
        return content
    if path.endswith(".pc"):
        for pattern, replacement in _PKG_CONFIG:
            content = pattern.sub(replacement, content)

    def in_prefix(match: re.Match[bytes]) -> bytes:
        placed, rest = _placed(match[0], known)
        return match[0] if placed is None else f"{PLACEHOLDER}/{placed}".encode() + rest

    return _PATH.sub(in_prefix, content)


def fixed_paths(content: bytes, known: Set[str]) -> Iterator[str]:
    """The paths of the prefix that a binary has built in as Debian's: there it will look for them, and not here."""
    for match in _PATH.finditer(content):
        if _placed(match[0], known)[0] is not None:
            yield match[0].decode()


def _placed(text: bytes, known: Set[str]) -> tuple[str | None, bytes]:
    # A sentence may end behind a path, and a directory may be written with a slash.
    plain = text.rstrip(b"./")
    placed = place(plain.decode("ascii", errors="replace").lstrip("/"))
    return (placed, text[len(plain) :]) if placed in known else (None, b"")
