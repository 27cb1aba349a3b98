"""Prefixes in files, byte by byte: substituted, taken out again, and in the RECORD of a wheel."""

from __future__ import annotations

import pytest

from envtool.artifacts.relocation import (
    PREFIX_TEXT,
    Placeholder,
    replace_text,
    restore,
    substitute,
    with_rewritten,
    without_rewritten,
)

TEXT, BINARY = Placeholder(b"/hole/hole", is_binary=False), Placeholder(b"/hole/hole", is_binary=True)


@pytest.mark.parametrize(
    ("archived", "linked", "placeholder"),
    [
        (b"#!/hole/hole/bin/python\n", b"#!/env/bin/python\n", TEXT),
        (b"#!" + PREFIX_TEXT + b"/bin/python\n", b"#!/env/bin/python\n", None),
        (b"a\0/hole/hole/lib\0b", b"a\0/env/lib\0\0\0\0\0\0\0b", BINARY),
        (b"/hole/hole:/hole/hole/x\0\0", b"/env:/env/x" + b"\0" * 14, BINARY),
        (b"/hole/hole", b"/env\0\0\0\0\0\0", BINARY),
        (b"of no prefix\0", b"of no prefix\0", BINARY),
    ],
)
def test_there_and_back(archived: bytes, linked: bytes, placeholder: Placeholder | None) -> None:
    assert substitute(archived, b"/env", placeholder) == linked
    assert restore(linked, b"/env", placeholder) == archived


RECORD = b"a.py,sha256=x,1\n../../bin/tool,sha256=y,2\n../../bin/bare,,\r\n" + PREFIX_TEXT + b"/p,,\n"


def test_a_record_without_what_installing_rewrites() -> None:
    expected = b"a.py,sha256=x,1\n../../bin/tool,,\n../../bin/bare,,\n" + PREFIX_TEXT + b"/p,,\n"
    assert without_rewritten(RECORD) == expected
    assert without_rewritten(RECORD.replace(PREFIX_TEXT, b"/env"), b"/env") == expected


def test_a_record_with_the_scripts_as_they_are() -> None:
    asked = []

    def describe(path: bytes) -> bytes:
        asked.append(path)
        return b"sha256=new,9"

    crlf = b"../../bin/late,sha256=z,3\r\n"
    written = with_rewritten(RECORD + crlf, describe)
    assert written == RECORD.replace(b"sha256=y,2", b"sha256=new,9") + b"../../bin/late,sha256=new,9\r\n"
    assert asked == [b"../../bin/tool", b"../../bin/late"]


def test_a_text_is_replaced_in_values_and_not_in_keys() -> None:
    value = {"/old": ["/old/x", {"at": "to /old/y"}, 3, None], "plain": True}
    assert replace_text(value, "/old", "/new") == {"/old": ["/new/x", {"at": "to /new/y"}, 3, None], "plain": True}
