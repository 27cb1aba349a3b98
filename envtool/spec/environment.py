"""The environment specification: one or several environment.yml files, whose lines have the category of their file, as
frozen values per platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from envtool.errors import Issue, SpecError
from envtool.spec import environment_yml
from envtool.spec.environment_yml import PLATFORMS, Source, package_name
from envtool.spec.pip_requirements import Line
from envtool.yaml_document import read_text

__all__ = ["DEFAULT_PLATFORM", "Dependency", "EnvironmentSpec", "PlatformSpec", "package_name", "read_spec"]

DEFAULT_PLATFORM = "linux-64"
_HINT = "docs/reference/environment-yml.md explains the keys"


class Dependency(NamedTuple):
    """One line that the user wrote: a match spec (`python=3.9`) or a requirement for pip (`torch==1.12.1`)."""

    text: str
    place: str
    category: str = "main"


@dataclass(frozen=True)
class PlatformSpec:
    """What is asked for on one platform; virtual packages are name to `version` or `version build`."""

    platform: str
    conda: tuple[Dependency, ...]
    pip: tuple[Dependency, ...] = ()
    pip_constraints: tuple[Dependency, ...] = ()
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    declared_at: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentSpec:
    """One environment; for what is not listed here see `environment_yml.Source`."""

    paths: tuple[Path, ...]
    name: str | None
    channels: tuple[str, ...]
    platforms: tuple[PlatformSpec, ...]  # what is asked for on each platform, in the order of the files
    variables: Mapping[str, str] = field(default_factory=dict)
    # the package index that stands for the default one, with variables for its credentials
    pip_index: str | None = None
    pip_repositories: tuple[str, ...] = ()
    # whether wheels may come from an index that no file names; every file has to allow it
    allows_default_index: bool = True
    allows_prereleases: bool = False
    requires_hashes: bool = False  # whether every wheel has to be pinned by its hash (`--require-hashes`)
    exclude_newer: str | None = None
    exclude_newer_package: Mapping[str, str] = field(default_factory=dict)
    exclude_newer_channel: Mapping[str, str] = field(default_factory=dict)
    run_link_scripts: tuple[str, ...] = ()  # the packages whose post-link scripts `create` runs, sorted
    warnings: tuple[Issue, ...] = ()  # what in the files is ignored or taken for granted

    @property
    def directory(self) -> Path:
        """What channels that are paths are relative to."""
        return self.paths[0].parent


def read_spec(
    paths: Sequence[Path], platforms: Sequence[str] = (), *, default: Sequence[str] = (DEFAULT_PLATFORM,)
) -> EnvironmentSpec:
    """Read the files of one environment, for `platforms` instead of the ones that they name. Raises MissingFileError if
    a file cannot be read, SpecError with every issue if one is malformed, or they contradict each other."""
    hint = "envtool init makes one from a template; -f names another"
    return combine([environment_yml.parse(path, read_text(path, hint)) for path in paths], platforms, default)


def combine(
    sources: Sequence[Source], platforms: Sequence[str] = (), default: Sequence[str] = (DEFAULT_PLATFORM,)
) -> EnvironmentSpec:
    """Put the parsed files of one environment together; the arguments and errors are those of `read_spec`."""
    issues = [issue for source in sources for issue in sorted(source.issues, key=_line)]
    pips = [section.pip for each in sources for section in each.sections.values()]
    named = tuple(dict.fromkeys(platform for each in sources for platform in each.platforms))
    chosen = tuple(dict.fromkeys(platforms)) or named or tuple(default)
    issues += [Issue("--platform", f"unknown platform {each!r}") for each in platforms if each not in PLATFORMS]
    _refuse(sources, issues)
    dates = {each.exclude_newer.text: each.exclude_newer for each in sources if each.exclude_newer}
    if len(dates) > 1:
        first, second, *_ = dates.values()
        issues.append(Issue(second.place, f"expected {first.text} as before, found another date"))
    channels = _ordered(sources, lambda each: each.channels, "channels", issues)
    warnings = [warning for each in sources for warning in each.warnings]
    if not any(each.has_channels for each in sources):
        channels = ("defaults",)
        place = f"{sources[0].path}:1"
        warnings.append(Issue(place, "no channels are named: conda's defaults are taken; name them to be sure"))
    index_urls = {pip.index_url.text: pip.index_url.place for pip in pips if pip.index_url}
    if len(index_urls) > 1:
        issues.append(Issue([*index_urls.values()][-1], f"expected one index URL, found {', '.join(index_urls)}"))
    repositories = _ordered(sources, lambda each: each.pip_repositories, "pip-repositories", issues)
    extra_urls = (line.text for each in pips for line in each.extra_index_urls)
    spec = EnvironmentSpec(
        paths=tuple(each.path for each in sources), name=next((each.name for each in sources if each.name), None),
        channels=channels, platforms=tuple(_platform(sources, platform, issues) for platform in chosen),
        variables=_texts([each.variables for each in sources], issues), pip_index=next(iter(index_urls), None),
        pip_repositories=tuple(dict.fromkeys([*repositories, *extra_urls])),
        allows_default_index=all(each.allows_default_index for each in sources),
        allows_prereleases=any(each.allows_prereleases for each in pips),
        requires_hashes=any(each.requires_hashes for each in pips),
        exclude_newer=next(iter(dates), None),
        exclude_newer_package=_texts([each.exclude_newer_package for each in sources], issues),
        exclude_newer_channel=_texts([each.exclude_newer_channel for each in sources], issues),
        run_link_scripts=tuple(sorted({line.text for each in sources for line in each.run_link_scripts})),
        warnings=tuple(warnings),
    )  # fmt: skip
    issues += [
        Issue(line.place, f"exclude-newer-channel names {name}, which is not among the channels")
        for each in sources
        for name, line in each.exclude_newer_channel.items()
        if name.rstrip("/") not in spec.channels
    ]
    if not spec.channels:
        issues.append(Issue(f"{sources[0].path}:1", "channels name none; packages have to come from somewhere"))
    _refuse(sources, issues)
    return spec


def _refuse(sources: Sequence[Source], issues: Sequence[Issue]) -> None:
    if issues:
        raise SpecError(", ".join(str(source.path) for source in sources), list(dict.fromkeys(issues)), _HINT)


def _line(issue: Issue) -> tuple[int, str]:
    number = issue.place.rpartition(":")[2]
    return (int(number) if number.isdigit() else 0), issue.message


def _platform(sources: Sequence[Source], platform: str, issues: list[Issue]) -> PlatformSpec:
    sections = [(source.sections[platform], source.category) for source in sources]
    declared = _united([section.virtual_packages for section, _ in sections], issues)
    conda = [Dependency(line.text, line.place, category) for section, category in sections for line in section.conda]
    pip_place = next((section.pip_place for section, _ in sections if section.pip_place), None)
    if pip_place and not any(package_name(each.text) == "pip" for each in conda):
        # conda and conda-lock put the wheels in with the environment's own pip, so that it has to be there.
        conda.append(Dependency("pip", pip_place))
    if not conda:
        issues.append(Issue(f"{sources[0].path}:1", f"dependencies name no conda package for {platform}"))
    return PlatformSpec(
        platform=platform,
        conda=tuple(conda),
        pip=tuple(Dependency(line.text, line.place, name) for s, name in sections for line in s.pip.requirements),
        pip_constraints=tuple(Dependency(line.text, line.place) for s, _ in sections for line in s.pip.constraints),
        virtual_packages={name: line.text for name, line in declared.items()},
        declared_at={name: line.place for name, line in declared.items()},
    )


def _texts(mappings: Sequence[Mapping[str, Line]], issues: list[Issue]) -> dict[str, str]:
    return {name: line.text for name, line in _united(mappings, issues).items()}


def _united(mappings: Sequence[Mapping[str, Line]], issues: list[Issue]) -> dict[str, Line]:
    united: dict[str, Line] = {}
    for mapping in mappings:
        for name, line in mapping.items():
            before = united.setdefault(name, line)
            if before.text != line.text:
                issues.append(
                    Issue(line.place, f"{name}: expected {before.text} as at {before.place}, found {line.text}")
                )
    return united


def _ordered(
    sources: Sequence[Source], lines: Callable[[Source], Sequence[Line]], what: str, issues: list[Issue]
) -> tuple[str, ...]:
    # conda-lock's rule: every file names the end of the longest list, so that the priority is never a guess.
    lists = [[line.text for line in lines(source)] for source in sources]
    longest = max(lists, key=len)
    for each, texts in zip(sources, lists):
        if texts and longest[-len(texts) :] != texts:
            place = lines(each)[0].place
            issues.append(Issue(place, f"{what} {', '.join(texts)} are not the end of {', '.join(longest)}"))
    return tuple(longest)
