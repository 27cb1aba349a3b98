"""From environment.yml to conda-lock.yml: solve, describe, write."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from envtool import virtual
from envtool.conda import PackageRecord
from envtool.lockfile import LockedPackage, Lockfile
from envtool.solve import Solution, solve
from envtool.spec import EnvironmentSpec
from envtool.wheels import Wheel

SPECS_KEY = "envtool_match_specs"
VARIABLES_KEY = "envtool_variables"
VIRTUAL_PACKAGES_KEY = "envtool_virtual_packages"


def lock(spec: EnvironmentSpec, lockfile_path: Path, cache_dir: Path) -> Lockfile:
    """Choose every package of every platform and describe them as a lock; nothing is written.

    Args:
        spec: What is asked for.
        lockfile_path: Where the lock will stand; its sources are relative to it.
        cache_dir: Where repodata is kept between runs.

    Raises:
        SolveError: A platform cannot be satisfied.
    """
    declared = {each.platform: virtual.declared(each.platform, each.virtual_packages) for each in spec.platforms}
    platforms = tuple(replace(each, virtual_packages=declared[each.platform]) for each in spec.platforms)
    solutions = solve(replace(spec, platforms=platforms), cache_dir)
    packages = [package for solution in solutions for package in _packages(solution, spec.category)]
    return Lockfile(
        packages=tuple(sorted(packages, key=lambda package: package.sort_key)),
        channels=spec.channels,
        platforms=tuple(sorted(declared)),
        sources=(os.path.relpath(spec.path.resolve(), lockfile_path.resolve().parent),),
        content_hash=content_hashes(spec, declared),
        custom_metadata=_metadata(spec, declared),
    )


def content_hashes(spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """conda-lock's own hash of the sources for each platform, computed by conda-lock itself.

    `conda-lock lock --check-input-hash` compares it; ours is the one of a run with the same virtual packages.
    """
    from conda_lock.content_hash import compute_content_hashes
    from conda_lock.src_parser import make_lock_spec
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    with tempfile.TemporaryDirectory(prefix="envtool-") as scratch:
        # An empty mapping keeps conda-lock off the network; it only looks up `pip`, whose name is the same everywhere.
        mapping = Path(scratch) / "mapping.json"
        mapping.write_text("{}")
        specification = Path(scratch) / "virtual-packages.yml"
        specification.write_text(yaml.safe_dump(virtual_package_specification(declared)))
        platforms = [each.platform for each in spec.platforms]
        lock_spec = make_lock_spec(src_files=[spec.path], platform_overrides=platforms, mapping_url=str(mapping))
        repodata = virtual_package_repo_from_specification(specification)
        return dict(sorted(compute_content_hashes(lock_spec, repodata).items()))


def virtual_package_specification(declared: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Declared virtual packages as conda-lock's `--virtual-package-spec` wants them."""
    return {"subdirs": {platform: {"packages": dict(packages)} for platform, packages in declared.items()}}


def _metadata(spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    match_specs = {each.platform: [dependency.text for dependency in each.conda] for each in spec.platforms}
    metadata = {
        "created_by": f"envtool {version('envserve')}",
        SPECS_KEY: json.dumps(match_specs, sort_keys=True),
        VIRTUAL_PACKAGES_KEY: json.dumps(declared, sort_keys=True),
    }
    if spec.variables:
        metadata[VARIABLES_KEY] = json.dumps(spec.variables, sort_keys=True)
    return metadata


def _packages(solution: Solution, category: str) -> list[LockedPackage]:
    records = [_from_record(record, solution.platform, category) for record in solution.records]
    return records + [_from_wheel(wheel, solution.platform, category) for wheel in solution.wheels]


def _from_record(record: PackageRecord, platform: str, category: str) -> LockedPackage:
    dependencies = dict(spec.partition(" ")[::2] for spec in record.depends)
    return LockedPackage(
        manager="conda",
        name=record.name,
        version=record.version,
        platform=platform,
        url=record.url,
        sha256=record.sha256,
        md5=record.md5,
        dependencies=dependencies,
        category=category,
        build=record.build,
    )


def _from_wheel(wheel: Wheel, platform: str, category: str) -> LockedPackage:
    return LockedPackage(
        manager="pip",
        name=wheel.name,
        version=wheel.version,
        platform=platform,
        url=wheel.url,
        sha256=wheel.sha256,
        category=category,
    )
