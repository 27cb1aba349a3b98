"""The reason why a version does not fit into a lock."""

from __future__ import annotations

from dataclasses import replace

from envtool.errors import SolveError
from envtool.inspect_lock.moves import Move, moves
from envtool.lockfile.conda_lock_v1 import Lockfile
from envtool.solve.conflicts import explained
from envtool.solve.lock import LockRequest
from envtool.solve.solution import Sources
from envtool.solve.solve import refuse_malformed
from envtool.solve.update import package_of, pip_bound, update
from envtool.spec import pip_requirements
from envtool.spec.environment import Dependency


def why_not(
    text: str, old: Lockfile, request: LockRequest, platform: str, sources: Sources
) -> tuple[str | None, tuple[Move, ...]]:
    """Ask for one more line: what holds it back, or None and what would move.

    Raises:
        EnvtoolError: The text names no package.
        SpecError: It is not a valid match spec.
    """
    name = package_of(text)
    here = {(each.manager, each.name) for each in old.packages if each.platform == platform}
    is_wheel = ("conda", name) not in here and ("pip", pip_requirements.name_of(name)) in here
    (spec,) = (each for each in request.spec.platforms if each.platform == platform)
    if is_wheel:
        bound = Dependency(pip_bound(name, text), "why-not")
        spec = replace(spec, pip_constraints=(*spec.pip_constraints, bound))
    else:
        spec = replace(spec, conda=(*spec.conda, Dependency(text, "why-not")))
    asked = replace(request, spec=replace(request.spec, platforms=(spec,)))
    refuse_malformed(asked.spec)
    one = replace(old, packages=tuple(each for each in old.packages if each.platform == platform))
    try:
        with explained(asked, sources):
            new = update(one, (), asked, sources)
    except SolveError as error:
        return error.message, ()
    return None, tuple(moves(one, new, asked, sources.repodata))
