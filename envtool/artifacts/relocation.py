"""The prefix in the content of files. An archive holds a *placeholder* wherever a file names its prefix; linking
replaces it. `restore` puts it back and `substitute` replaces it once more: `substitute(restore(x)) == x` for what was
linked right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

# Stands for the prefix in files that declare no placeholder of their own, such as the scripts that wheels bring.
PREFIX_TEXT = b"/envserve/prefix"


class Placeholder(NamedTuple):
    """What a package's archive states in place of the prefix."""

    text: bytes
    is_binary: bool  # then NUL bytes keep the length of each string


def restore(content: bytes, prefix: bytes, placeholder: Placeholder | None) -> bytes:
    """Take the prefix out of a file's content again: what was linked right is the archive's content once more."""
    if placeholder is not None and placeholder.is_binary:
        return _replace_in_strings(content, prefix, placeholder.text)
    return content.replace(prefix, placeholder.text if placeholder else PREFIX_TEXT)


def substitute(content: bytes, prefix: bytes, placeholder: Placeholder | None) -> bytes:
    """Put the prefix into a file's content, as linking does; in a binary it must not be longer than the placeholder."""
    if placeholder is not None and placeholder.is_binary:
        return _replace_in_strings(content, placeholder.text, prefix)
    return content.replace(placeholder.text if placeholder else PREFIX_TEXT, prefix)


def _replace_in_strings(content: bytes, old: bytes, new: bytes) -> bytes:
    # A C string stays where it is and what it takes with it: one that gets shorter is filled up with NUL bytes, and one
    # that gets longer has those after its end back.
    pieces = []
    at = 0
    while (found := content.find(old, at)) >= 0:
        end = content.find(b"\0", found)
        end = len(content) if end < 0 else end
        string = content[found:end].replace(old, new)
        pieces += [content[at:found], string.ljust(end - found, b"\0")]
        at = max(end, found + len(string))
    return b"".join([*pieces, content[at:]])


def without_rewritten(record: bytes, prefix: bytes = PREFIX_TEXT) -> bytes:
    """RECORD of a `.dist-info` without the hashes of scripts, into which installing writes the prefix."""
    lines = record.replace(prefix, PREFIX_TEXT).split(b"\n")
    return b"\n".join(line.split(b",", 1)[0] + b",," if line.startswith(b"../") else line for line in lines)


def with_rewritten(record: bytes, describe: Callable[[bytes], bytes]) -> bytes:
    """RECORD of a `.dist-info` with the hashes of the scripts outside of site-packages as they are now: `describe`
    gives `sha256=HASH,SIZE` of a path as it is in RECORD. A script without a hash gets none."""
    lines = record.split(b"\n")
    for number, line in enumerate(lines):
        path, _, rest = line.partition(b",")
        if line.startswith(b"../") and rest.strip() != b",":
            lines[number] = path + b"," + describe(path) + (b"\r" if line.endswith(b"\r") else b"")
    return b"\n".join(lines)


def replace_text(value: Any, old: str, new: str) -> Any:
    """A JSON value with a text replaced wherever it is in a string; keys stay."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [replace_text(each, old, new) for each in value]
    if isinstance(value, dict):
        return {key: replace_text(each, old, new) for key, each in value.items()}
    return value
