"""Taking the prefix out of a file undoes exactly what linking put in, for any content and any prefix."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from envtool.artifacts.relocation import PREFIX_TEXT, Placeholder, restore
from tests.support.archives import PLACEHOLDER

HOLE = PLACEHOLDER.encode()
names = st.from_regex(r"(/[a-j_.-]{1,12}){1,5}", fullmatch=True).map(str.encode)
# Pieces that real files are made of: other bytes, ends of strings, and the placeholder itself.
pieces = st.lists(st.one_of(st.just(HOLE), st.just(b"\0"), st.just(b":"), st.binary(max_size=8)), max_size=12)


def link_text(content: bytes, prefix: bytes) -> bytes:
    return content.replace(HOLE, prefix)


def link_binary(content: bytes, prefix: bytes) -> bytes:
    """As conda-build and rattler define it: each C string is shortened, and filled up with NUL bytes to its length."""

    def shorten(match: re.Match[bytes]) -> bytes:
        string = match[0].replace(HOLE, prefix)
        return string + b"\0" * (len(match[0]) - len(string))

    return re.sub(re.escape(HOLE) + b"[^\0]*", shorten, content)


@given(pieces, names)
def test_text(parts: list[bytes], prefix: bytes) -> None:
    content = b"".join(parts)
    assume(prefix not in content)
    assert restore(link_text(content, prefix), prefix, Placeholder(HOLE, is_binary=False)) == content


@given(pieces, names)
def test_binary(parts: list[bytes], prefix: bytes) -> None:
    content = b"".join(parts)
    assume(prefix not in content)
    linked = link_binary(content, prefix)
    # A string at the very end has no NUL byte after it in the file, but linking adds some.
    assert restore(linked, prefix, Placeholder(HOLE, is_binary=True)) == content


@given(st.lists(st.binary(max_size=8).map(lambda part: part.replace(b"/", b" ")), max_size=6), names, names)
def test_files_without_a_placeholder_are_the_same_in_every_prefix(parts: list[bytes], one: bytes, other: bytes) -> None:
    # A following letter would lengthen a prefix into another path.
    first, second = (restore((prefix + b"\n").join(parts), prefix, None) for prefix in (one, other))
    assert first == second == (PREFIX_TEXT + b"\n").join(parts)
