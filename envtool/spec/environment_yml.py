"""One parsed environment.yml, with every issue that it has. The format is conda's, with conda-lock's keys (`platforms`,
`category`, `pip-repositories`) and ours (`virtual-packages`, `exclude-newer`; docs/adr/0002). A selector in a comment
(`# [linux and not aarch64]`) keeps a line for some platforms; conda-lock knows single names only. Source: CEP 24,
"Comment-based selectors"; conda_lock/src_parser/selectors.py."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from envtool.errors import Issue
from envtool.fetch import credentials
from envtool.lockfile.model import variable_problem
from envtool.spec import pip_requirements
from envtool.spec.pip_requirements import Line, Requirements
from envtool.yaml_document import Value, YamlDocument

SELECTORS: Mapping[str, frozenset[str]] = {
    "linux-64": frozenset({"linux", "linux64", "unix", "x86", "x86_64", "x64"}),
    "linux-aarch64": frozenset({"linux", "aarch64", "unix"}),
    "linux-ppc64le": frozenset({"linux", "ppc64le", "unix"}),
    "osx-64": frozenset({"osx", "osx64", "unix", "x86", "x86_64", "x64"}),
    "osx-arm64": frozenset({"osx", "arm64", "unix"}),
    "win-64": frozenset({"win", "win64", "x86", "x86_64", "x64"}),
}
PLATFORMS = tuple(SELECTORS)
# The other platforms of conda, which envtool locks nothing for.
_KNOWN = frozenset().union(*SELECTORS.values(), {"linux32", "win32", "s390x", "armv6l", "armv7l", "riscv64", "ppc64"})
_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
_SELECTOR = re.compile(r"\S.*?#[^\[]*\[([^\[\]]+)\][^()]*$")


def selector(line: str) -> str | None:
    """The selector at the end of a line, or None where it has none."""
    if line.lstrip().startswith("#"):
        return None
    match = _SELECTOR.match(line.strip())
    return match[1].strip() if match else None


def for_platform(text: str, platform: str) -> str:
    """The text with the lines of other platforms blanked, so that every other line keeps its number."""
    kept = SELECTORS[platform]
    lines = ((line, selector(line)) for line in text.split("\n"))
    return "\n".join(line if name is None or holds(name, kept) else "" for line, name in lines)


def selector_problems(text: str) -> list[tuple[int, str]]:
    """The selectors of a text that cannot be used: line, counted from 1, and why."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        expression = selector(line)
        if expression is None:
            continue
        words = set(_TOKEN.findall(expression)) - {"and", "or", "not", "(", ")"}
        unknown = sorted(words - _KNOWN)
        if unknown:
            known = ", ".join(sorted(_KNOWN))
            found.append((number, f"selector [{expression}] names no platform: {', '.join(unknown)}; known: {known}"))
        elif holds(expression, frozenset()) is None:
            found.append((number, f"selector [{expression}] cannot be read; names, and, or, not and parentheses can"))
    return found


def holds(expression: str, names: frozenset[str]) -> bool | None:
    """Whether a selector is true where some names are, None where it cannot be read."""

    def value(node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)(list(map(value, node.values)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.Name):
            return node.id in names
        raise SyntaxError

    try:
        return value(ast.parse(" ".join(expression.split()), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_KEYS = (
    "name", "channels", "dependencies", "platforms", "category", "variables", "prefix",
    "pip-repositories", "allow-pypi-requests", "virtual-packages", "exclude-newer",
    "exclude-newer-package", "exclude-newer-channel", "run-link-scripts",
)  # fmt: skip
_LOOKS_ALIKE = 0.8
_MATCH_SPEC = re.compile(r"^(?:\S*::|[^\s:]+:[^\s:]*:)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?=$|[\s=<>!~\[])")
_OTHER_SUFFIXES = (".toml", ".txt", ".cfg", ".ini", ".py")
_OTHER_FILES = "packages of conda under dependencies, those of an index under pip, where `-r requirements.txt` is read"
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Section(NamedTuple):
    """What one file asks for on one platform."""

    conda: tuple[Line, ...]
    pip: Requirements
    pip_place: str | None  # where the first `pip:` section starts; None where there is none
    # declared virtual packages, name to the line that states `version` or `version build`
    virtual_packages: Mapping[str, Line]


@dataclass(frozen=True)
class Source:
    """One environment.yml."""

    path: Path
    name: str | None = None
    channels: tuple[Line, ...] = ()  # channels as they are written, the first has priority; `nodefaults` is gone
    has_channels: bool = False
    platforms: tuple[str, ...] = ()
    category: str = "main"
    variables: Mapping[str, Line] = field(default_factory=dict)
    pip_repositories: tuple[Line, ...] = ()
    allows_default_index: bool = True  # whether wheels may come from an index that no file names
    exclude_newer: Line | None = None  # how old a package has to be: a date, or days
    # the same for single packages; `false` where age does not count
    exclude_newer_package: Mapping[str, Line] = field(default_factory=dict)
    # the same for single channels, by the words in `channels`
    exclude_newer_channel: Mapping[str, Line] = field(default_factory=dict)
    run_link_scripts: tuple[Line, ...] = ()  # the packages whose post-link scripts `create` runs
    sections: Mapping[str, Section] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()


def parse(path: Path, text: str) -> Source:
    """Parse an environment.yml for every platform that there is; what is wrong is in its `issues`."""
    if path.suffix in _OTHER_SUFFIXES:
        what = f"{path.name} is not an environment.yml, the only supported format; write one: {_OTHER_FILES}"
        return Source(path, issues=(Issue(f"{path}:1", what),))
    document = YamlDocument(str(path), text)
    top = document.mapping(document.root, "the file")
    # What is said of keys that are none: CEP 24 wants them ignored; one that looks like ours is an issue (ADR 15).
    warnings = []
    for key, value in top.items():
        close = get_close_matches(key.replace("_", "-").lower(), _KEYS, 1, _LOOKS_ALIKE)
        if key not in _KEYS and close:
            document.issue(value.line, f"unknown key {key!r} in the file; did you mean {close[0]}?")
        elif key not in _KEYS:
            warnings.append(Issue(f"{document.name}:{value.line}", f"the key {key!r} is unknown and ignored"))
    if not document.issues and not top:
        document.issue(1, "the file is empty; it needs at least channels and dependencies")
    if not top:
        return Source(path, issues=tuple(document.issues))
    for number, problem in selector_problems(text):
        document.issue(number, problem)
    newer = top.get("exclude-newer")  # YAML reads 2026-01-31 as a date and 7 as a number
    category = document.string(top.get("category"), "category") or "main"
    if not _CATEGORY.fullmatch(category):
        document.issue(top["category"].line, f"category {category!r} may have letters, digits, and - _ . between them")
    variables = _scalars(document, top.get("variables"), "variables")
    problems = ((line.place, variable_problem(name, line.text)) for name, line in variables.items())
    document.issues += [Issue(place, problem) for place, problem in problems if problem]
    return Source(
        path=path, name=_name(document, top.get("name")), channels=_channels(document, top.get("channels")),
        has_channels="channels" in top, platforms=_platforms(document, top.get("platforms")), category=category,
        variables=variables,
        pip_repositories=tuple(_urls(document, top.get("pip-repositories"), "pip-repositories")),
        allows_default_index=_truth(document, top.get("allow-pypi-requests"), "allow-pypi-requests"),
        exclude_newer=Line(str(newer.data), f"{path}:{newer.line}") if newer and newer.data is not None else None,
        exclude_newer_package=_scalars(document, top.get("exclude-newer-package"), "exclude-newer-package"),
        exclude_newer_channel=_scalars(document, top.get("exclude-newer-channel"), "exclude-newer-channel"),
        run_link_scripts=_package_names(document, top.get("run-link-scripts"), "run-link-scripts"),
        sections={platform: _section(document, text, platform) for platform in PLATFORMS},
        issues=tuple(document.issues), warnings=tuple(warnings),
    )  # fmt: skip


def _name(document: YamlDocument, value: Value | None) -> str | None:
    # Source: CEP 24, "name and prefix".
    name = document.string(value, "name")
    if value and name and (name in ("base", "root", ".", "..") or re.search(r"[/ :#]", name)):
        document.issue(value.line, f"name {name!r}: no / : # or space, and none of base, root, . and ..")
    return name


def package_name(match_spec: str) -> str | None:
    """The package that a match spec is about, or None when it names none."""
    match = _MATCH_SPEC.match(match_spec.strip())
    return match["name"].lower() if match else None


def _truth(document: YamlDocument, value: Value | None, what: str) -> bool:
    if value is None or isinstance(value.data, bool):
        return value is None or bool(value.data)
    document.issue(value.line, f"{what} must be true or false, not {value.data!r}")
    return False


def _platforms(document: YamlDocument, value: Value | None) -> tuple[str, ...]:
    named = document.strings(value, "platforms")
    for platform, line in named:
        if platform not in PLATFORMS:
            document.issue(line, f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    return tuple(dict.fromkeys(platform for platform, _ in named if platform in PLATFORMS))


def _channels(document: YamlDocument, value: Value | None) -> tuple[Line, ...]:
    named = {line.text.rstrip("/"): line for line in reversed(_urls(document, value, "channels"))}
    return tuple(Line(text, named[text].place) for text in reversed(named) if text != "nodefaults")


def _urls(document: YamlDocument, value: Value | None, what: str) -> list[Line]:
    found = []
    for text, line in document.strings(value, what):
        if credentials.is_literal(text):
            document.issue(line, pip_requirements.LITERAL.format(credentials.strip(text)))
        found.append(Line(text, f"{document.name}:{line}"))
    return found


def _package_names(document: YamlDocument, value: Value | None, what: str) -> tuple[Line, ...]:
    named = document.strings(value, what)
    for text, line in named:
        if package_name(text) != text.lower():
            document.issue(line, f"{what} names packages alone, without versions or channels: {text!r}")
    return tuple(Line(text.lower(), f"{document.name}:{line}") for text, line in named)


def _scalars(document: YamlDocument, value: Value | None, what: str) -> dict[str, Line]:
    at = document.mapping(value, what)
    return {name: Line(text, f"{document.name}:{at[name].line}") for name, text in document.scalars(value, what)}


def _section(document: YamlDocument, text: str, platform: str) -> Section:
    # Selectors are comments, which no YAML parser keeps: lines for other platforms are blanked, so that places stay.
    filtered = YamlDocument(document.name, for_platform(text, platform))
    top = filtered.mapping(filtered.root, "the file")
    conda, lines, place = _dependencies(filtered, top.get("dependencies"))
    pip = pip_requirements.parse(lines, Path(document.name).parent)
    declared = filtered.mapping(top.get("virtual-packages"), "virtual-packages", PLATFORMS)
    virtual = _virtual_packages(filtered, declared.get(platform), platform)
    new = [issue for issue in [*filtered.issues, *pip.issues] if issue not in document.issues]
    document.issues.extend(new)
    return Section(conda, pip, place, virtual)


def _virtual_packages(document: YamlDocument, value: Value | None, platform: str) -> dict[str, Line]:
    declared = _scalars(document, value, f"virtual-packages of {platform}")
    for name, line in declared.items():
        if not name.startswith("__"):
            document.issues.append(Issue(line.place, f"virtual package {name!r} must start with two underscores"))
        if not re.fullmatch(r"[0-9][A-Za-z0-9_.+!]*( \S+)?", line.text):
            what = f"virtual package {name} must be a version, and a build where it has one: {line.text!r}"
            document.issues.append(Issue(line.place, what))
    return declared


def _dependencies(document: YamlDocument, value: Value | None) -> tuple[tuple[Line, ...], list[Line], str | None]:
    conda: list[Line] = []
    pip: list[Line] = []
    place = None
    for item in document.items(value, "dependencies"):
        if isinstance(item.data, dict) and (instead := _instead(item.data)):
            document.issue(item.line, instead)
        elif isinstance(item.data, dict):
            section = document.mapping(item, "an entry of dependencies", ["pip"])
            pip += [Line(text, f"{document.name}:{at}") for text, at in document.strings(section.get("pip"), "pip")]
            place = place or (f"{document.name}:{item.line}" if pip else None)
        elif (text := document.string(item, "an entry of dependencies")) is not None:
            text = text.split("#")[0].rstrip() or text  # as conda reads a match spec
            conda.append(Line(text, f"{document.name}:{item.line}"))
            if package_name(text) is None:
                form = "CHANNEL::NAME=VERSION=BUILD, with its channel listed" if "/" in text else "python=3.9"
                document.issue(item.line, f"{text!r} is not a valid match spec, for example {form}")
    return tuple(conda), pip, place


def _instead(entry: Mapping[str, Value]) -> str | None:
    """What to write for `sel(linux): package` of mamba or for `python: 3.9`, None where the entry is something else."""
    name = next(iter(entry), "pip")
    value = entry[name].text if name in entry else ""
    selector = re.fullmatch(r"sel\(\s*(\w+)\s*\)", name)
    if selector:
        return f"{name}: is mamba's; write the line as `- {value or 'PACKAGE'}  # [{selector[1]}]`"
    if name == "pip" or not value:
        return None
    return f"{name}: {value} is a mapping; write the line as `- {name}{'' if value[0] in '=<>!~' else '='}{value}`"
