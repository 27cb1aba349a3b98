"""The W3C trace context, by the examples and rules of the specification."""

from __future__ import annotations

import pytest

from serve.observability.spans import parse_trace_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_header_of_the_specification():
    found = parse_trace_parent(f"00-{TRACE}-{SPAN}-01")
    assert (found.trace_id, found.span_id, found.flags) == (TRACE, SPAN, "01")
    assert str(found) == f"00-{TRACE}-{SPAN}-01"


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert parse_trace_parent(f"cc-{TRACE}-{SPAN}-01-what-comes-later").trace_id == TRACE


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\r\nX-Evil: 1",
    ],
)
def test_what_the_specification_says_to_ignore(text):
    assert parse_trace_parent(text) is None
