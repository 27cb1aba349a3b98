"""The cause of an unsatisfiable request: a declared virtual package, the cut-off, or a minimal set of lines.

The question is asked again with every virtual package at its best, and with fewer lines, until none can be left out.
Source: U. Junker, "QuickXplain", AAAI 2004.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from envtool.errors import SolveError, UnsatisfiableError
from envtool.solve.lock import LockRequest, channels_of, solve, with_virtual_packages
from envtool.solve.solution import SolveErrors, Sources
from envtool.spec.environment import Dependency, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy

_BEST = {"__cuda": "99.9", "__glibc": "2.99", "__linux": "99.0", "__osx": "99.0"}
_BUDGET_S = 60.0


class Explanation(NamedTuple):
    """Why one platform cannot be satisfied."""

    platform: str
    reason: str
    declarations: Mapping[str, str]  # the virtual packages that are in the way, name to the line that is to be changed
    # each the fewest lines that cannot be satisfied together; no line is in two of them
    conflicts: tuple[tuple[Dependency, ...], ...] = ()
    exclude_newer: str | None = None  # the cut-off, where it is the cause: without it everything could be satisfied
    # the lines that no record of any channel satisfies, each with the newest version of the package; None where no
    # channel has one of the name
    unknown: tuple[tuple[Dependency, str | None], ...] = ()
    is_cut_short: bool = False  # whether there was no time to find the fewest lines, so that some may be innocent

    @property
    def message(self) -> str:
        """The explanation for people."""
        lines = [f"{self.platform} cannot be satisfied:"]
        for text in self.reason.splitlines():
            # The solver names each build of a package on a line of its own, and all of them read the same.
            if len(lines) == 1 or text.lstrip("│├└─ ") != lines[-1][2:].lstrip("│├└─ "):
                lines.append(f"  {text}")
        if self.declarations:
            lines += ["the cause is what the target machines are declared to have:"]
            lines += [f"  {text}" for text in self.declarations.values()]
        if self.exclude_newer:
            lines.append(f"the cause is the cut-off: without exclude-newer {self.exclude_newer} it could be satisfied")
        single = [each for conflict in self.conflicts if len(conflict) == 1 for each in conflict]
        alone = []
        for line, newest in self.unknown:
            why = f"such a version or build; the newest is {package_name(line.text)} {newest}"
            alone.append(f"{_shown(line)} (no channel has {why if newest else 'a package of this name'})")
        alone += map(_shown, single)
        if alone:
            what = "this line" if len(alone) == 1 else f"each of these {len(alone)} lines"
            lines += [f"{what} cannot be satisfied:", *alone]
        for conflict in (each for each in self.conflicts if len(each) > 1):
            lines.append(f"these {len(conflict)} lines cannot be satisfied together:")
            lines += map(_shown, conflict)
        if self.is_cut_short:
            over = f"the search ended after {_BUDGET_S:.0f} s"
            lines.append(f"{over}: some of these lines may be innocent, others missing")
        return "\n".join(lines)

    @property
    def hint(self) -> str:
        """What the user can do."""
        if self.unknown and not self.conflicts:
            return "mind the spelling, ask for what there is, or add a channel that has it"
        if self.declarations:
            names = ", ".join(self.declarations)
            return f"raise {names} under virtual-packages if the target machines have it, or ask for older packages"
        if self.exclude_newer:
            return "choose a later date or a shorter cooldown, or ask for older packages"
        return "loosen or remove one of these lines, or add a channel that has what they need"


def _shown(line: Dependency) -> str:
    return f"  {line.place}: {line.text}"


@contextmanager
def explained(request: LockRequest, sources: Sources) -> Iterator[None]:
    """Turn the solver's refusal inside the block into a SolveError that names, for every platform, the lines that are
    the cause."""
    try:
        yield
    except (UnsatisfiableError, SolveErrors) as error:
        errors = error.errors if isinstance(error, SolveErrors) else (error,)
        refused = [each for each in errors if isinstance(each, UnsatisfiableError)]
        if not refused:
            raise
        explanations = [explain(each, request, sources) for each in refused]
        others = [each.message for each in errors if not isinstance(each, UnsatisfiableError)]
        message = "\n".join([*(explanation.message for explanation in explanations), *others])
        raise SolveError(message, explanations[0].hint) from error


def explain(error: UnsatisfiableError, request: LockRequest, sources: Sources) -> Explanation:
    """Find the cause for one platform."""
    spec = with_virtual_packages(request.spec)
    platform = next(each for each in spec.platforms if each.platform == error.platform)
    preference = request.preferences.get(error.platform)
    policy = request.policy()
    all_lines = platform.conda
    unknown = sources.repodata.unknown(channels_of(spec), error.platform, [line.text for line in all_lines])
    platform = replace(platform, conda=tuple(each for each in platform.conda if each.text not in unknown))
    missing = tuple((each, unknown[each.text]) for each in all_lines if each.text in unknown)
    deadline = time.monotonic() + _BUDGET_S

    def is_satisfiable(conda: Sequence[Dependency], virtual: Mapping[str, str], policy: VersionPolicy = policy) -> bool:
        # Past the budget everything counts as satisfiable, which leaves more lines in the answer, never fewer.
        part = replace(platform, conda=tuple(conda), pip=(), virtual_packages=virtual)
        if time.monotonic() > deadline or not conda:
            return True
        preferences = {error.platform: preference} if preference else {}
        try:
            solve(replace(spec, platforms=(part,)), sources, policy, preferences)
        except UnsatisfiableError:
            return False
        return True

    explained = Explanation(error.platform, error.reason, {}, unknown=missing)
    if missing and is_satisfiable(platform.conda, platform.virtual_packages):
        return explained
    declarations = _declarations(platform, error.reason, is_satisfiable)
    if declarations:
        return explained._replace(declarations=declarations)
    unbounded = VersionPolicy(policy.strategy)
    if policy != unbounded and is_satisfiable(platform.conda, platform.virtual_packages, unbounded):
        moment = f"{policy.exclude_newer:%Y-%m-%d %H:%M} UTC" if policy.exclude_newer else "of packages or channels"
        return explained._replace(exclude_newer=moment)
    found = conflicts(platform.conda, lambda lines: is_satisfiable(lines, platform.virtual_packages))
    return explained._replace(conflicts=found, is_cut_short=time.monotonic() > deadline)


def conflicts(
    lines: Sequence[Dependency], is_satisfiable: Callable[[Sequence[Dependency]], bool]
) -> tuple[tuple[Dependency, ...], ...]:
    """Conflicts that have no line in common, until what is left can be satisfied; the arguments are as below."""
    found = [smallest_conflict(lines, is_satisfiable)]
    while found[-1]:
        lines = [line for line in lines if line not in found[-1]]
        if is_satisfiable(lines):
            break
        found.append(smallest_conflict(lines, is_satisfiable))
    return tuple(each for each in found if each)


def smallest_conflict(
    lines: Sequence[Dependency], is_satisfiable: Callable[[Sequence[Dependency]], bool]
) -> tuple[Dependency, ...]:
    """The fewest lines that cannot be satisfied together: with any one of them less, they can be."""

    def search(background: list[Dependency], is_new: bool, candidates: list[Dependency]) -> list[Dependency]:
        if is_new and not is_satisfiable(background):
            return []
        if len(candidates) == 1:
            return candidates
        middle = len(candidates) // 2
        left, right = candidates[:middle], candidates[middle:]
        from_right = search([*background, *left], bool(left), right)
        from_left = search([*background, *from_right], bool(from_right), left)
        return [*from_left, *from_right]

    found = search([], False, list(dict.fromkeys(lines))) if lines else []
    return tuple(line for line in lines if line in found)


def _declarations(
    platform: PlatformSpec, reason: str, is_satisfiable: Callable[[Sequence[Dependency], Mapping[str, str]], bool]
) -> dict[str, str]:
    # What can be raised is what the solver names; where it names none, a declaration is still tried as the cause.
    system = platform.platform.partition("-")[0]
    possible = {name: best for name, best in _BEST.items() if system == "linux" or name == f"__{system}"}
    best = {**platform.virtual_packages, **possible}
    if "__" not in reason or not is_satisfiable(platform.conda, best):
        return {}
    needed = dict(possible)
    for name in possible:
        without = {each: value for each, value in needed.items() if each != name}
        if is_satisfiable(platform.conda, {**platform.virtual_packages, **without}):
            needed = without
    return {name: _declaration(platform, name, reason) for name in needed}


def _declaration(platform: PlatformSpec, name: str, reason: str) -> str:
    constraint = re.search(rf"{name} ([<>=!~0-9][^\s,]*(?:,[^\s,]+)*)", reason)
    needed = f"; {constraint[1].rstrip(',')} is needed" if constraint else ""
    if name in platform.declared_at:
        return f"{platform.declared_at[name]}: {name} {platform.virtual_packages[name]}{needed}"
    if name in platform.virtual_packages:
        return f"{name} {platform.virtual_packages[name]} (assumed, since none is declared){needed}"
    return f"no {name} is declared for {platform.platform}{needed}"
