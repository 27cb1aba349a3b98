"""The environment specification: what an environment.yml asks for, as frozen values, per platform.

The file is conda's own, with the keys that conda-lock added to it (`platforms`, `category`, `pip-repositories`) and one
of ours: `virtual-packages`, what the target machines have, so that a lock never depends on the machine that makes it
(docs/adr/0002). Platform selectors in comments (`# [linux]`) are conda-lock's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envtool.document import Document, Value, read_text
from envtool.errors import Issue, SpecError

DEFAULT_PLATFORM = "linux-64"
PLATFORM_SELECTORS: Mapping[str, frozenset[str]] = {
    "linux-64": frozenset({"linux", "linux64", "unix"}),
    "linux-aarch64": frozenset({"linux", "aarch64", "unix"}),
    "linux-ppc64le": frozenset({"linux", "ppc64le", "unix"}),
    "osx-64": frozenset({"osx", "osx64", "unix"}),
    "osx-arm64": frozenset({"osx", "arm64", "unix"}),
    "win-64": frozenset({"win", "win64"}),
}
_KEYS = (
    "name", "channels", "dependencies", "platforms", "category", "variables", "prefix",
    "pip-repositories", "allow-pypi-requests", "virtual-packages",
)  # fmt: skip
_SELECTOR = re.compile(r"#\s*\[([^]]*)\]\s*$")
_MATCH_SPEC = re.compile(r"^(?:[^\s:]+::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)")
_HINT = "the keys and their meaning stand in docs/reference/environment-yml.md"


@dataclass(frozen=True)
class Dependency:
    """One line that the user wrote.

    Args:
        text: A conda match spec (`python=3.9`) or a requirement for pip (`torch==1.12.1`).
        place: Where it stands: `environment.yml:7`.
    """

    text: str
    place: str


@dataclass(frozen=True)
class PlatformSpec:
    """What is asked for on one platform.

    Args:
        platform: A conda subdir such as `linux-64`.
        conda: The match specs.
        pip: The requirements of the `pip:` section.
        virtual_packages: Declared virtual packages, name to `version` or `version build`.
    """

    platform: str
    conda: tuple[Dependency, ...]
    pip: tuple[Dependency, ...]
    virtual_packages: Mapping[str, str]


@dataclass(frozen=True)
class EnvironmentSpec:
    """One environment.yml.

    Args:
        path: The file.
        name: The name that it gives the environment.
        channels: Channel names or URLs, the first has priority; `nodefaults` is gone.
        platforms: What is asked for on each platform, in the order of the file.
        category: The category of everything in it.
        variables: Environment variables to set on activation.
        pip_repositories: Package indexes besides the default one.
    """

    path: Path
    name: str | None
    channels: tuple[str, ...]
    platforms: tuple[PlatformSpec, ...]
    category: str = "main"
    variables: Mapping[str, str] = field(default_factory=dict)
    pip_repositories: tuple[str, ...] = ()


def read_spec(path: Path, platforms: Sequence[str] = ()) -> EnvironmentSpec:
    """Read an environment.yml.

    Args:
        path: The file.
        platforms: The platforms to read it for, instead of the ones that it names.

    Raises:
        MissingFileError: The file cannot be read.
        SpecError: It is malformed; every issue is in it.
    """
    text = read_text(path, "envtool init makes one from a template; -f names another")
    return parse_spec(path, text, platforms)


def parse_spec(path: Path, text: str, platforms: Sequence[str] = ()) -> EnvironmentSpec:
    """Parse the content of an environment.yml; the arguments and errors are those of `read_spec`."""
    document = Document(str(path), text)
    top = document.mapping(document.root, "the file", _KEYS)
    if not document.issues and not top:
        document.issue(1, "the file is empty; it needs at least channels and dependencies")
    if document.issues:
        raise SpecError(str(path), document.issues, _HINT)
    chosen = tuple(platforms) or _platforms(document, top)
    declared = _virtual_packages(document, top.get("virtual-packages"))
    spec = EnvironmentSpec(
        path=path,
        name=document.string(top.get("name"), "name"),
        channels=_channels(document, top),
        platforms=tuple(_platform_spec(document, text, each, declared.get(each, {})) for each in chosen),
        category=document.string(top.get("category"), "category") or "main",
        variables=dict(document.scalars(top.get("variables"), "variables")),
        pip_repositories=tuple(url for url, _ in document.strings(top.get("pip-repositories"), "pip-repositories")),
    )
    if document.issues:
        raise SpecError(str(path), sorted(set(document.issues), key=_line), _HINT)
    return spec


def package_name(match_spec: str) -> str | None:
    """The package that a match spec is about, or None when it is none."""
    match = _MATCH_SPEC.match(match_spec.strip())
    return match["name"].lower() if match else None


def _line(issue: Issue) -> tuple[int, str]:
    return int(issue.place.rpartition(":")[2]), issue.message


def _platforms(document: Document, top: Mapping[str, Value]) -> tuple[str, ...]:
    named = document.strings(top.get("platforms"), "platforms")
    for platform, line in named:
        if platform not in PLATFORM_SELECTORS:
            document.issue(line, f"unknown platform {platform!r}; known: {', '.join(PLATFORM_SELECTORS)}")
    known = tuple(dict.fromkeys(platform for platform, _ in named if platform in PLATFORM_SELECTORS))
    return known or (DEFAULT_PLATFORM,)


def _channels(document: Document, top: Mapping[str, Value]) -> tuple[str, ...]:
    named = [channel for channel, _ in document.strings(top.get("channels"), "channels")]
    wanted = tuple(dict.fromkeys(channel for channel in named if channel != "nodefaults"))
    if not wanted:
        document.issue(document.root.line, "no channel is named; packages have to come from somewhere")
    return wanted


def _virtual_packages(document: Document, value: Value | None) -> dict[str, dict[str, str]]:
    declared = {}
    for platform, packages in document.mapping(value, "virtual-packages", list(PLATFORM_SELECTORS)).items():
        declared[platform] = dict(document.scalars(packages, f"virtual-packages of {platform}"))
        for name in declared[platform]:
            if not name.startswith("__"):
                document.issue(packages.line, f"virtual package {name!r} must start with two underscores")
    return declared


def _platform_spec(document: Document, text: str, platform: str, declared: Mapping[str, str]) -> PlatformSpec:
    # Selectors are comments, which no YAML parser keeps: lines for other platforms are blanked, so that places stay.
    lines = [line if _applies(line, platform) else "" for line in text.split("\n")]
    filtered = Document(document.name, "\n".join(lines))
    top = filtered.mapping(filtered.root, "the file")
    conda, pip = _dependencies(filtered, top.get("dependencies"))
    document.issues.extend(filtered.issues)
    return PlatformSpec(platform, conda, pip, declared)


def _applies(line: str, platform: str) -> bool:
    selector = _SELECTOR.search(line)
    return selector is None or selector[1].strip() in PLATFORM_SELECTORS[platform]


def _dependencies(document: Document, value: Value | None) -> tuple[tuple[Dependency, ...], tuple[Dependency, ...]]:
    conda: list[Dependency] = []
    pip: list[Dependency] = []
    for item in document.items(value, "dependencies"):
        if isinstance(item.data, dict):
            section = document.mapping(item, "an entry of dependencies", ["pip"])
            pip += [
                Dependency(text, f"{document.name}:{at}") for text, at in document.strings(section.get("pip"), "pip")
            ]
        elif (text := document.string(item, "an entry of dependencies")) is not None:
            if package_name(text) is None:
                document.issue(item.line, f"{text!r} is no match spec, such as python=3.9")
            conda.append(Dependency(text, f"{document.name}:{item.line}"))
    if not conda and not document.issues:
        document.issue(value.line if value else document.root.line, "dependencies name no conda package")
    return tuple(conda), tuple(pip)
