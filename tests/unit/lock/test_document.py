"""YAML that nobody writes by hand but anybody may send: it ends at once, and ordinary aliases and merge keys work."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from envtool.yaml_document import YamlDocument


def issues(text: str) -> list[str]:
    return [str(issue) for issue in YamlDocument("file", text).issues]


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ("a: &a\n  - *a\n", "file:1: an alias is inside its own anchor"),
        ("a:\n  x: &a {b: [1, {c: *a}]}\n", "file:2: an alias is inside its own anchor"),
        ("a: &a\n  <<: *a\n", "file:1: an alias is inside its own anchor"),
        ("a: 1\nb:\n  <<: text\n", "file:3: expected a mapping or a list of mappings after <<"),
        ("a: 1\n? [b]\n: 2\n", "file:2: expected a text as key"),
        ("a: 1\nb: 2026-02-31\n", "file:2: '2026-02-31' is no timestamp"),
        ("a: !!int b\n", "file:1: 'b' is no int"),
        ("a: 0x" + "f" * 9000, "file:1: expected a number of a usual size"),
        ("a:\n  " + "[" * 120 + "]" * 120, "file:2: lists and mappings are nested too deeply"),
        ("a: " + "[" * 9000 + "]" * 9000, "file:1: not YAML: exceeded maximum nesting depth"),
    ],
)
def test_what_has_no_value_is_an_issue_with_its_line(text: str, issue: str) -> None:
    found = issues(text)
    if "maximum nesting" in issue:  # in the words of whichever parser is there
        assert len(found) == 1
    else:
        assert found == [issue]


@pytest.mark.parametrize("level", ["[{0}]", "{{{1}}}"])
@pytest.mark.parametrize("levels", [6, 12, 40])
def test_aliases_of_aliases_are_refused_before_they_are_written_out(levels: int, level: str) -> None:
    lines = ["a0: &a0 [x, x, x, x]"]
    for number in range(1, levels):
        alias = f"*a{number - 1}"
        pairs = ", ".join(f"k{each}: {alias}" for each in range(9))
        lines.append(f"a{number}: &a{number} " + level.format(", ".join([alias] * 9), pairs))
    tracemalloc.start()
    began = time.process_time()
    assert "aliases repeat more than" in issues("\n".join(lines))[0]
    assert tracemalloc.get_traced_memory()[1] < 50e6
    assert time.process_time() - began < 20  # 9 ** 40 values would never end
    tracemalloc.stop()


def test_merge_keys_over_and_over_are_refused_too() -> None:
    base = "base: &b {" + ", ".join(f"k{each}: 1" for each in range(1000)) + "}\n"
    assert "aliases repeat" in issues(base + "".join(f"m{each}: {{<<: *b}}\n" for each in range(1000)))[0]


def test_ordinary_aliases_and_merge_keys_are_what_they_stand_for() -> None:
    text = "x: &x\n  A: 1\n  B: 1\ny: &y {A: 2}\nz:\n  <<: [*y, *x]\n  C: 3\nlist: &l [a, b]\nagain: *l\n"
    document = YamlDocument("file", text)
    assert document.issues == []
    merged = document.root.data["z"].data
    assert {key: (value.data, value.line) for key, value in merged.items()} == {"A": (2, 4), "B": (1, 3), "C": (3, 7)}
    assert [each.data for each in document.root.data["again"].data] == ["a", "b"]
