"""One source file: an environment.yml, parsed, with every issue that it has.

The file is conda's own, with the keys that conda-lock added to it (`platforms`, `category`, `pip-repositories`) and two
of ours: `virtual-packages`, what the target machines have, and `exclude-newer`, how old a package has to be
(docs/adr/0002). Out of scope: several files together (`envtool.spec.environment`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envtool.errors import Issue
from envtool.fetch import url_credentials
from envtool.spec import pip_requirements, selectors
from envtool.spec.pip_requirements import Line, Requirements
from envtool.spec.selectors import PLATFORMS
from envtool.yaml_document import Document, Value

_KEYS = (
    "name", "channels", "dependencies", "platforms", "category", "variables", "prefix",
    "pip-repositories", "allow-pypi-requests", "virtual-packages", "exclude-newer",
)  # fmt: skip
_MATCH_SPEC = re.compile(r"^(?:[^\s:]+::|[^\s:]+:[^\s:]*:)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?=$|[\s=<>!~\[])")
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Section:
    """What one file asks for on one platform.

    Args:
        conda: The match specs.
        pip: What the `pip:` section comes to.
        pip_place: Where the first `pip:` section starts; None where there is none.
        virtual_packages: Declared virtual packages, name to the line that says `version` or `version build`.
    """

    conda: tuple[Line, ...]
    pip: Requirements
    pip_place: str | None
    virtual_packages: Mapping[str, Line]


@dataclass(frozen=True)
class Source:
    """One environment.yml.

    Args:
        path: The file.
        name: The name that it gives the environment.
        channels: Channels as they are written, the first has priority; `nodefaults` is gone.
        platforms: The platforms that it names.
        category: The category of everything in it.
        variables: Variables to set on activation.
        pip_repositories: Package indexes besides the default one.
        exclude_newer: How old a package has to be: a date, or days.
        sections: What it asks for on each platform.
        issues: What is wrong with it.
    """

    path: Path
    name: str | None = None
    channels: tuple[Line, ...] = ()
    platforms: tuple[str, ...] = ()
    category: str = "main"
    variables: Mapping[str, Line] = field(default_factory=dict)
    pip_repositories: tuple[Line, ...] = ()
    exclude_newer: Line | None = None
    sections: Mapping[str, Section] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()


def parse(path: Path, text: str) -> Source:
    """Parse an environment.yml for every platform that there is; what is wrong stands in its `issues`."""
    document = Document(str(path), text)
    top = document.mapping(document.root, "the file", _KEYS)
    if not document.issues and not top:
        document.issue(1, "the file is empty; it needs at least channels and dependencies")
    if not top:
        return Source(path, issues=tuple(document.issues))
    for number, name in selectors.unknown(text):
        known = ", ".join(sorted(frozenset().union(*selectors.SELECTORS.values())))
        document.issue(number, f"selector [{name}] names no platform; known: {known}")
    category = document.string(top.get("category"), "category") or "main"
    if not _CATEGORY.fullmatch(category):
        document.issue(top["category"].line, f"category {category!r} may have letters, digits, and - _ . between them")
    return Source(
        path=path,
        name=document.string(top.get("name"), "name"),
        channels=_channels(document, top.get("channels")),
        platforms=_platforms(document, top.get("platforms")),
        category=category,
        variables=_scalars(document, top.get("variables"), "variables"),
        pip_repositories=tuple(_urls(document, top.get("pip-repositories"), "pip-repositories")),
        exclude_newer=_exclude_newer(document, top.get("exclude-newer")),
        sections={platform: _section(document, text, platform) for platform in PLATFORMS},
        issues=tuple(document.issues),
    )


def package_name(match_spec: str) -> str | None:
    """The package that a match spec is about, or None when it is none."""
    match = _MATCH_SPEC.match(match_spec.strip())
    return match["name"].lower() if match else None


def _exclude_newer(document: Document, value: Value | None) -> Line | None:
    # YAML reads 2026-01-31 as a date and 7 as a number; both are written as people say them.
    if value is None or value.data is None:
        return None
    return Line(str(value.data), f"{document.name}:{value.line}")


def _platforms(document: Document, value: Value | None) -> tuple[str, ...]:
    named = document.strings(value, "platforms")
    for platform, line in named:
        if platform not in PLATFORMS:
            document.issue(line, f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    return tuple(dict.fromkeys(platform for platform, _ in named if platform in PLATFORMS))


def _channels(document: Document, value: Value | None) -> tuple[Line, ...]:
    named = {line.text.rstrip("/"): line for line in reversed(_urls(document, value, "channels"))}
    return tuple(Line(text, named[text].place) for text in reversed(named) if text != "nodefaults")


def _urls(document: Document, value: Value | None, what: str) -> list[Line]:
    found = []
    for text, line in document.strings(value, what):
        if url_credentials.is_literal(text):
            document.issue(
                line, f"credentials in {url_credentials.strip(text)}; write variables: https://$USER:$TOKEN@host/"
            )
        found.append(Line(text, f"{document.name}:{line}"))
    return found


def _scalars(document: Document, value: Value | None, what: str) -> dict[str, Line]:
    mapping = document.mapping(value, what)
    return {
        name: Line(text, f"{document.name}:{mapping[name].line}") for name, text in document.scalars(value, what)
    }  # fmt: skip


def _section(document: Document, text: str, platform: str) -> Section:
    # Selectors are comments, which no YAML parser keeps: lines for other platforms are blanked, so that places stay.
    filtered = Document(document.name, selectors.for_platform(text, platform))
    top = filtered.mapping(filtered.root, "the file")
    conda, lines, place = _dependencies(filtered, top.get("dependencies"))
    pip = pip_requirements.parse(lines, Path(document.name).parent)
    for each in [*pip.extra_index_urls, *([pip.index_url] if pip.index_url else [])]:
        if url_credentials.is_literal(each.text):
            stripped = url_credentials.strip(each.text)
            pip.issues.append(
                Issue(each.place, f"credentials in {stripped}; write variables: https://$USER:$TOKEN@host/")
            )
    declared = filtered.mapping(top.get("virtual-packages"), "virtual-packages", PLATFORMS)
    virtual = _virtual_packages(filtered, declared.get(platform), platform)
    new = [issue for issue in [*filtered.issues, *pip.issues] if issue not in document.issues]
    document.issues.extend(new)
    return Section(conda, pip, place, virtual)


def _virtual_packages(document: Document, value: Value | None, platform: str) -> dict[str, Line]:
    declared = _scalars(document, value, f"virtual-packages of {platform}")
    for name, line in declared.items():
        number = int(line.place.rpartition(":")[2])
        if not name.startswith("__"):
            document.issue(number, f"virtual package {name!r} must start with two underscores")
        if not re.fullmatch(r"[0-9][A-Za-z0-9_.+!]*( \S+)?", line.text):
            document.issue(
                number, f"virtual package {name} must be a version, and a build where it has one: {line.text!r}"
            )
    return declared


def _dependencies(document: Document, value: Value | None) -> tuple[tuple[Line, ...], list[Line], str | None]:
    conda: list[Line] = []
    pip: list[Line] = []
    place = None
    for item in document.items(value, "dependencies"):
        if isinstance(item.data, dict):
            section = document.mapping(item, "an entry of dependencies", ["pip"])
            lines = [Line(text, f"{document.name}:{at}") for text, at in document.strings(section.get("pip"), "pip")]
            place = place or (f"{document.name}:{item.line}" if lines else None)
            pip += lines
        elif (text := document.string(item, "an entry of dependencies")) is not None:
            conda += _match_spec(document, text, item.line)
    return tuple(conda), pip, place


def _match_spec(document: Document, text: str, line: int) -> Sequence[Line]:
    if package_name(text) is None:
        document.issue(line, f"{text!r} is no match spec, such as python=3.9")
        return []
    return [Line(text, f"{document.name}:{line}")]
