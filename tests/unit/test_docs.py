"""The docs name what there is: links, paths, modules; a README of a page; plain words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in (".", "channel", "docs", "bench")
    for page in ((ROOT / folder).rglob("*.md") if folder != "." else ROOT.glob("*.md"))
    if ".cache" not in page.parts
)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
# What is written instead is in CONTRIBUTING.md.
REPLACED = re.compile(
    r"\b(?:is|are) not there\b|could not be had|lock's already|is not well|there is no kind|asks nobody|\bis no wheel\b"
    r"|\bstands? in\b|\bstanding in\b|\bis there a way\b",
    re.IGNORECASE,
)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name begins with a module of ours, two levels deep where it has them."""
    parts = name.split(".")[:3]
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists() or (len(parts) == 2 and (ROOT / parts[0]).is_dir())


def missing(page: Path) -> list[str]:
    codes = re.findall(r"`([^`\n]+)`", prose(page))
    paths = [code for code in codes if re.fullmatch(r"(?:envtool|serve|tests|templates|docs|bench)/[\w./-]+", code)]
    modules = [code for code in codes if re.fullmatch(r"(?:envtool|serve)(?:\.[a-z]\w*){2,}(?:\.\w+)*", code)]
    return [path for path in paths if not (ROOT / path).exists()] + [name for name in modules if not is_module(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_what_there_is_in_plain_words(page: Path) -> None:
    assert broken_links(page) == []
    assert missing(page) == []
    assert REPLACED.findall(prose(page)) == []


def test_the_readme_is_a_page_and_the_chinese_one_has_all_of_it() -> None:
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))
    assert len(re.findall(r"\w[\w'-]*", english.read_text())) <= 600

    def links(page: Path) -> set[str]:
        return set(re.findall(r"\]\(([^)\s]+)\)", page.read_text())) - {english.name, chinese.name}

    assert links(english) == links(chinese)


def test_every_decision_is_listed_and_has_its_parts() -> None:
    folder = ROOT / "docs/adr"
    decisions = sorted(path for path in folder.glob("0*.md"))
    assert re.findall(r"\]\((0[^)]+)\)", (folder / "README.md").read_text()) == [path.name for path in decisions]
    for path in decisions:
        parts = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert parts == ["Context", "Options", "Decision", "Consequences"], path.name
        assert re.search(r"^Status: .+ · Date: \d{4}-\d\d-\d\d$", path.read_text(), re.MULTILINE), path.name


def emitted() -> set[str]:
    """The names of events that code of `serve` emits where it names them itself."""
    calls = [
        node
        for path in (ROOT / "serve").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args and re.search(r"(?:^|[._])(?:emit|say)$", ast.unparse(node.func))
    ]
    names = {part.value for call in calls for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)}
    return {name for name in names if isinstance(name, str) and re.fullmatch(r"[a-z_]+", name)}


def test_every_event_is_described() -> None:
    page = (ROOT / "docs/reference/events.md").read_text()
    described = {
        name for row in re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert len(emitted()) > 10
    assert emitted() <= described
    code = "".join(path.read_text() for path in (ROOT / "serve").rglob("*.py"))
    assert [name for name in described if f'"{name}"' not in code] == []


ENGLISH_ONLY = {"reference/commands.md", "reference/settings.md"}  # made from the code


@pytest.mark.parametrize("folder", [ROOT / "docs", ROOT / "docs/zh"], ids=["english", "chinese"])
def test_every_page_is_in_the_index(folder: Path) -> None:
    parts = ("tutorial", "how-to", "reference", "explanation")
    pages = {page.relative_to(folder).as_posix() for part in parts for page in (folder / part).glob("*.md")}
    assert pages - set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text())) == set()


def test_both_languages_have_the_same_pages() -> None:
    english, chinese = (
        {page.relative_to(folder).as_posix() for page in folder.rglob("*.md") if page.parent.name not in ("adr", "zh")}
        for folder in (ROOT / "docs", ROOT / "docs/zh")
    )
    assert {page for page in english if not page.startswith("zh/")} - ENGLISH_ONLY == chinese | {"README.md"}


def shape(page: Path) -> dict[str, object]:
    """What a page has in every language: the levels of its headings, its code, its links, its tables and lists."""
    text = page.read_text()
    words = FENCE.sub("", text)
    code = [*FENCE.findall(text), *re.findall(r"(?:^    .*\n)+", words, re.MULTILINE)]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", words)]
    return {
        "headings": [len(level) for level in re.findall(r"^(#+) ", words, re.MULTILINE)],
        # Comments are translated.
        "code": [re.sub(r"(?m) *#.*|^ +| +$", "", block).strip() for block in code],
        "links": sorted(link if "://" in link else resolved(page, link) for link in links),
        "rows": len(re.findall(r"^\|", words, re.MULTILINE)),
        "items": len(re.findall(r"^ *(?:-|\d+\.) ", words, re.MULTILINE)),
    }


def resolved(page: Path, link: str) -> str:
    """The page that a link leads to, under its English name."""
    path = (page.parent / link).resolve() if link else page
    return path.relative_to(ROOT).as_posix().replace("docs/zh/", "docs/").replace("README.zh.md", "README.md")


@pytest.mark.parametrize("page", sorted((ROOT / "docs/zh").rglob("*.md")), ids=lambda page: page.stem)
def test_both_languages_have_the_same_parts(page: Path) -> None:
    assert shape(page) == shape(ROOT / "docs" / page.relative_to(ROOT / "docs/zh"))


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the older click there wraps help in other places")
def test_pages_made_from_the_code_are_up_to_date() -> None:
    # In a process of its own: click remembers the help option of the first context that a command was shown in.
    subprocess.run([sys.executable, ROOT / "docs/site_reference.py", "--check"], cwd=ROOT, check=True)


def test_every_page_is_in_the_site() -> None:
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))


@pytest.mark.nightly
def test_the_site_is_built_without_a_warning() -> None:
    subprocess.run([sys.executable, ROOT / "bin/docs", "build"], cwd=ROOT, check=True)
