"""Lines of the specification that refuse a locked package."""

from __future__ import annotations

from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.solve import conda_solver
from envtool.spec import pip_requirements
from envtool.spec.environment import Dependency, PlatformSpec, package_name


def refusing(platform: PlatformSpec, package: LockedPackage) -> list[Dependency]:
    """The lines that ask for another version or build of a package than the locked one."""
    if package.manager == "conda":
        return [
            each for each in platform.conda if package_name(each.text) == package.name and not fits(each.text, package)
        ]
    lines = (*platform.pip, *platform.pip_constraints)
    own = [each for each in lines if pip_requirements.name_of(each.text) == package.name]
    return [each for each in own if not pip_requirements.allows(each.text, package.version)]


def fits(match_spec: str, package: LockedPackage) -> bool:
    """Whether a match spec takes a conda package."""
    return conda_solver.matches(match_spec, package.name, package.version, package.build_string or "")
