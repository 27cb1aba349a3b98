"""One resolution by uv: the wheels, and the reason for each."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.errors import ProcessError, SolveError
from envtool.mirrors import pip_index
from envtool.pypi import uv

if TYPE_CHECKING:
    from envtool.pypi.distribution_names import Provided
    from envtool.pypi.resolve import WheelRequest

_FOR_EVER = datetime(9000, 1, 1)


class Resolution:
    """Questions to uv about the wheels of one target."""

    def __init__(self, request: WheelRequest, scratch: Path, variables: Mapping[str, str]) -> None:
        self._request = request
        self._scratch = scratch
        self._variables = variables
        self._stand_ins: dict[str, Provided] = {}

    def bound(self, constraints: Sequence[str], stand_ins: Mapping[Path, Provided]) -> list[str]:
        """The constraints of the next answers: those given, and that what conda brings is chosen as it is."""
        self._stand_ins = {path.as_uri(): each for path, each in stand_ins.items()}
        return [*constraints, *(f"{each.name} @ {uri}" for uri, each in self._stand_ins.items())]

    def pylock(
        self, requirements: Sequence[str], options: Sequence[str], constraints: Sequence[str] = (), kept: str = ""
    ) -> str:
        """The chosen wheels as a pylock.toml.

        Raises:
            SolveError: Nothing satisfies the requirements, or the index failed; uv's own words.
        """
        locked = self._scratch / "pylock.toml"
        locked.unlink(missing_ok=True)
        if kept:
            locked.write_text(kept)  # uv prefers the versions that its output file has
        self._compile(requirements, ["--format", "pylock.toml", "--output-file", str(locked), *options], constraints)
        return locked.read_text(encoding="utf-8")

    def reasons(self, requirements: Sequence[str], constraints: Sequence[str]) -> str:
        """The same wheels as requirements, each with what needs it and with the extras that are asked for."""
        options = ["--format", "requirements.txt", "--annotation-style", "line", "--no-strip-extras"]
        return self._compile(requirements, options, constraints)

    def _compile(self, requirements: Sequence[str], options: Sequence[str], constraints: Sequence[str]) -> str:
        request, scratch = self._request, self._scratch
        target, policy = request.target, request.policy
        _write(scratch / "requirements.in", requirements)
        _write(scratch / "constraints.txt", constraints)
        argv = ["pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:", *options]
        argv += ["--python", sys.executable, "--python-version", target.python_version]
        argv += ["--python-platform", target.uv_platform, "--constraints", str(scratch / "constraints.txt")]
        argv += ["--resolution", policy.strategy]
        if policy.exclude_newer:
            argv += ["--exclude-newer", _rfc3339(policy.exclude_newer)]
        for name, moment in policy.of_packages.items():
            argv += ["--exclude-newer-package", f"{name}={_rfc3339(moment or _FOR_EVER)}"]
        if not request.has_dependencies:
            argv.append("--no-deps")
        if not (request.allows_default_index or request.index_url or request.extra_index_urls):
            argv.append("--no-index")
        if request.allows_prereleases:
            argv += ["--prerelease", "allow"]
        try:
            return uv.run(
                [*argv, str(scratch / "requirements.in")], env={**self._indexes(), **self._variables}, cwd=scratch
            )
        except ProcessError as error:
            raise SolveError(
                f"{target.platform}: the pip section cannot be satisfied:\n{self._in_our_words(error.output)}",
                _solve_hint(error, request),
            ) from error

    def _indexes(self) -> dict[str, str]:
        request = self._request
        if request.allows_default_index:
            return pip_index.index_variables(request.index_url, request.extra_index_urls)
        return pip_index.only(request.index_url, request.extra_index_urls)

    def _in_our_words(self, output: str) -> str:
        named = set(re.findall(r"[a-z0-9][a-z0-9-]*", output.lower()))
        for uri, each in self._stand_ins.items():
            output = output.replace(uri, f"the conda package {each.record.name} {each.record.version}")
        brought = [each for each in self._stand_ins.values() if each.name in named]
        return output + "".join(
            f"\n{each.name} {each.version} is brought by the conda package {each.record.name}" for each in brought
        )


def parse_reasons(text: str) -> dict[str, tuple[str, ...]]:
    """What each distribution needs, from uv's annotated requirements (`click==8.1.8  # via flask`)."""
    needs: dict[str, set[str]] = {}
    for line in text.splitlines():
        requirement, marked, reasons = line.partition("# via ")
        name = re.split(r"[=@\s;\[]", requirement.strip(), maxsplit=1)[0]
        for reason in reasons.split(",") if marked and name else ():
            if re.fullmatch(r"[a-z0-9-]+", parent := re.sub(r"\[.*\]", "", reason.strip())):
                needs.setdefault(parent, set()).add(name)
    return {parent: tuple(sorted(names)) for parent, names in needs.items()}


def with_extras(text: str) -> set[str]:
    """The distributions of which an extra is asked for, from the same."""
    return set(re.findall(r"^([a-z0-9-]+)\[", text, re.MULTILINE))


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{each}\n" for each in lines))


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _solve_hint(error: ProcessError, request: WheelRequest) -> str:
    if not request.allows_default_index:
        return "allow-pypi-requests is false: only the indexes that environment.yml names were asked"
    if "error sending request" in error.output or "dns error" in error.output:
        return "the package index cannot be reached; set PIP_INDEX_URL or UV_DEFAULT_INDEX to one that can"
    return "change the versions in the pip: section of environment.yml"
