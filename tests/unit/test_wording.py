"""The words that errors, help, docstrings and docs do not use; CONTRIBUTING.md lists what to write instead."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each with what to write instead.
WORDINGS = {
    r"\b(?:is|are|was|were) not there\b": "X not found",
    r"\bis no wheel\b|(?<!there )\bis none\b(?! of)": "is not a valid wheel",
    r"\b(?:could|can|cannot|not) be had\b": "could not be downloaded",
    r"\bis the lock's already\b": "is already up to date",
    r"\b(?:is|are) not well\b": "failed its health check",
    r"\bthere is no kind\b": "unknown template",
    r"\bplace outside of the package\b": "path escapes the package",
    r"\bthat conda cannot say\b": "cannot be expressed as a conda version",
    r"\basks? nobody\b": "--offline: no network access",
    r"\bno root\b(?! access)": "no root access",
    r"\bstands? in\b": "is in, are in",
    r"\btold\b": "reported",
    r"\bsays\b": "returns",
    r"\bis there a way to\b": "is the network reachable?",
    # Chinese words for what docs/zh/reference/glossary.md calls otherwise.
    "观察期|试用期": "考察期 (probation)",
    "热替换|热更新|热切换": "替换 (swap)",
    "门禁|道检查": "关卡 (gate)",
    "(?<=[个有])worker|worker(?=[先们])": "工作进程 (worker)",
    "账本|帐本": "台账 (ledger)",
    "租用": "租约 (lease)",
    "锁定文件": "锁文件 (lock)",
    "金标准请求": "黄金请求 (golden request)",
}
FORBIDDEN = re.compile("|".join(WORDINGS), re.IGNORECASE)


def packages() -> list[str]:
    """The packages and lone modules of both halves, and the pages of the documentation."""
    halves = [path for half in ("envtool", "serve") for path in sorted((ROOT / half).iterdir())]
    code = [path for path in halves if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return [path.relative_to(ROOT).as_posix() for path in (*code, ROOT / "docs")]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of the string literals of a module, or of a page, with their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from enumerate(node.value.splitlines(), node.lineno)


@pytest.mark.parametrize("package", packages())
def test_no_text_has_a_forbidden_wording(package: str) -> None:
    top = ROOT / package
    files = [top] if top.is_file() else sorted([*top.rglob("*.py"), *top.rglob("*.md")])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r} in {line.strip()[:100]!r}"
        for path in files
        for number, line in texts(path)
        if (match := FORBIDDEN.search(line))
    ]
    assert not found, "\n".join(found)


def test_no_file_has_the_marks_of_a_merge() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    mark = re.compile(rb"^(?:<{7}|>{7}|\|{7}) ", re.MULTILINE)
    found = [name for name in listed if (ROOT / name).is_file() and mark.search((ROOT / name).read_bytes())]
    assert not found
