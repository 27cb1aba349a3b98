"""Bytes from outside with some of them changed, for tests of what reads them."""

from __future__ import annotations

from hypothesis import strategies as st

edits = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "cut", "double"]), st.floats(0, 1), st.binary(min_size=1, max_size=6)),
    min_size=1, max_size=4,
)  # fmt: skip


def edited(content: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    """The content after these changes, each at a share of its length."""
    for kind, where, new in steps:
        at = int(where * len(content))
        if kind == "set":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "insert":
            content = content[:at] + new + content[at:]
        elif kind == "cut":
            content = content[:at]
        else:
            content = content[:at] + content[at // 2 :]
    return content
