"""The cause of an unsatisfiable request: a declared virtual package, the cut-off, or a minimal set of lines, found by
asking again with fewer. Source: U. Junker, "QuickXplain", AAAI 2004."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from envtool.errors import SolveError, UnsatisfiableError
from envtool.solve.lock import LockRequest, channels_of, solve, with_virtual_packages
from envtool.solve.solution import SolveErrors, Sources
from envtool.spec.environment import Dependency, PlatformSpec, package_name
from envtool.spec.version_policy import VersionPolicy

_BEST = {"__cuda": "99.9", "__glibc": "2.99", "__linux": "99.0", "__osx": "99.0"}
_BUDGET_S = 60.0


@contextmanager
def explained(request: LockRequest, sources: Sources) -> Iterator[None]:
    """Turn the solver's refusal into a SolveError that names, for every platform, the lines that are the cause."""
    try:
        yield
    except (UnsatisfiableError, SolveErrors) as error:
        errors = error.errors if isinstance(error, SolveErrors) else (error,)
        refused = [each for each in errors if isinstance(each, UnsatisfiableError)]
        if not refused:
            raise
        explanations = [explain(each, request, sources) for each in refused]
        others = [each.message for each in errors if not isinstance(each, UnsatisfiableError)]
        message = "\n".join([*(line for lines, _ in explanations for line in lines), *others])
        raise SolveError(message, explanations[0][1]) from error


def explain(error: UnsatisfiableError, request: LockRequest, sources: Sources) -> tuple[list[str], str]:
    """Find the cause for one platform: lines for people, and what they can do."""
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

    alone = [_unknown(*each) for each in missing]
    spelling = "mind the spelling, ask for what there is, or add a channel that has it"
    if missing and is_satisfiable(platform.conda, platform.virtual_packages):
        return [*_reason(error), *_each_alone(alone)], spelling
    declarations = _declarations(platform, error.reason, is_satisfiable)
    if declarations:
        head = "the cause is what the target machines are declared to have:"
        said = [*_reason(error), head, *(f"  {text}" for text in declarations.values()), *_each_alone(alone)]
        raised = f"raise {', '.join(declarations)} under virtual-packages if the target machines have it"
        return said, spelling if missing else f"{raised}, or ask for older packages"
    unbounded = VersionPolicy(policy.strategy)
    if policy != unbounded and is_satisfiable(platform.conda, platform.virtual_packages, unbounded):
        moment = f"{policy.exclude_newer:%Y-%m-%d %H:%M} UTC" if policy.exclude_newer else "of packages or channels"
        head = f"the cause is the cut-off: without exclude-newer {moment} it could be satisfied"
        hint = "choose a later date or a shorter cooldown, or ask for older packages"
        return [*_reason(error), head, *_each_alone(alone)], spelling if missing else hint
    found = conflicts(platform.conda, lambda lines: is_satisfiable(lines, platform.virtual_packages))
    lines = [*_reason(error), *_each_alone([*alone, *(_shown(each[0]) for each in found if len(each) == 1)])]
    for conflict in (each for each in found if len(each) > 1):
        lines += [f"these {len(conflict)} lines cannot be satisfied together:", *map(_shown, conflict)]
    if time.monotonic() > deadline:
        # There was no time to find the fewest lines.
        lines.append(f"the search ended after {_BUDGET_S:.0f} s: some of these lines may be innocent, others missing")
    hint = "loosen or remove one of these lines, or add a channel that has what they need"
    return lines, spelling if missing and not found else hint


def _reason(error: UnsatisfiableError) -> list[str]:
    lines = [f"{error.platform} cannot be satisfied:"]
    for text in error.reason.splitlines():
        # The solver names each build of a package on a line of its own, and all of them read the same.
        if len(lines) == 1 or text.lstrip("│├└─ ") != lines[-1][2:].lstrip("│├└─ "):
            lines.append(f"  {text}")
    return lines


def _each_alone(shown: Sequence[str]) -> list[str]:
    if not shown:
        return []
    what = "this line" if len(shown) == 1 else f"each of these {len(shown)} lines"
    return [f"{what} cannot be satisfied:", *shown]


def _unknown(line: Dependency, newest: str | None) -> str:
    why = f"such a version or build; the newest is {package_name(line.text)} {newest}"
    return f"{_shown(line)} (no channel has {why if newest else 'a package of this name'})"


def _shown(line: Dependency) -> str:
    return f"  {line.place}: {line.text}"


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
