"""conda-lock's hash of the sources, computed by conda-lock itself, so that its `--check-input-hash` agrees with us.

conda-lock compares with the virtual packages that it is told of: `envtool export virtual-packages` gives it ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from envtool import console
from envtool.atomic_files import write_atomically
from envtool.scratch import scratch_directory
from envtool.spec import pip_requirements
from envtool.spec.environment import EnvironmentSpec, PlatformSpec
from envtool.yaml_document import dump

_TEMP_VARIABLE = "RUNNER_TEMP"
_EMPTY = ("conda_lock", "conda_lock.lockfile", "conda_lock.src_parser")
_kept: dict[str, types.ModuleType] = {}


def content_hashes(spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]] | None) -> dict[str, str]:
    """The hash of each platform.

    Args:
        spec: The specification, read from its files.
        declared: The virtual packages of each platform; None means conda-lock's own.
    """
    try:
        return _ask_conda_lock(spec, declared)
    except Exception as error:  # conda-lock raises whatever its parsers raise
        return _without_conda_lock(spec, error)


def remembered_hashes(
    spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]], directory: Path
) -> dict[str, str]:
    """The hash of each platform, as conda-lock computed it when it was last asked about the very same sources.

    Importing what conda-lock needs for it takes as long as a solve; that the sources are the same takes a millisecond.

    Args:
        spec: The specification, read from its files.
        declared: The virtual packages of each platform.
        directory: Where the answers are kept.
    """
    from importlib.metadata import version

    path = directory / f"{_digest([version('conda-lock'), declared, repr(spec), *_contents(spec)])}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = {str(platform): str(digits) for platform, digits in json.loads(path.read_bytes()).items()}
        if found.keys() == declared.keys():
            return found
    try:
        hashes = _ask_conda_lock(spec, declared)
    except Exception as error:  # as above; what is not conda-lock's is not kept
        return _without_conda_lock(spec, error)
    with contextlib.suppress(OSError):  # a place where nothing can be kept is as good as none
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(hashes))
    return hashes


def _without_conda_lock(spec: EnvironmentSpec, error: Exception) -> dict[str, str]:
    console.warn(f"conda-lock cannot read the sources, so that its own check of them will not agree: {error}")
    return {each.platform: _digest(_plain(spec, each)) for each in spec.platforms}


def _contents(spec: EnvironmentSpec) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in spec.paths]


def _ask_conda_lock(spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]] | None) -> dict[str, str]:
    with conda_lock_modules(), scratch_directory() as scratch:
        return _compute_all(spec, _virtual_packages(scratch, declared), scratch)


def _compute_all(spec: EnvironmentSpec, repodata: Any, scratch: Path) -> dict[str, str]:
    if not any(each.pip or each.pip_constraints for each in spec.platforms):
        return _compute(spec, repodata)
    if _is_readable(spec):
        return _compute_from_files(list(spec.paths), [each.platform for each in spec.platforms], repodata, scratch)
    hashes = {}
    for each in spec.platforms:
        path = scratch / f"{each.platform}.yml"
        path.write_text(dump(_plain(spec, each)))
        hashes.update(_compute_from_files([path], [each.platform], repodata, scratch))
    return hashes


def virtual_package_specification(declared: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Declared virtual packages as conda-lock's `--virtual-package-spec` wants them."""
    return {"subdirs": {platform: {"packages": dict(packages)} for platform, packages in declared.items()}}


@contextmanager
def conda_lock_modules() -> Iterator[None]:
    """Make conda-lock's modules importable without its command line.

    `import conda_lock` brings the whole program in, which takes longer than a solve. Inside the block empty packages
    stand for those whose `__init__` does so, and only the modules that are asked for are imported; outside of it
    everything is as if none had been. What was imported is kept for the next block.
    """
    if "conda_lock" in sys.modules and "conda_lock" not in _kept:
        yield  # the whole of it is there already
        return
    # It reports every line that a selector takes away and every marker that it takes for true.
    logging.getLogger("conda_lock").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"conda_lock(\.|$)")
    for name in _EMPTY:
        if name not in _kept:
            _kept[name] = _empty_package(name)
    sys.modules.update(_kept)
    try:
        yield
    finally:
        for name in [each for each in sys.modules if each == "conda_lock" or each.startswith("conda_lock.")]:
            _kept[name] = sys.modules.pop(name)


def _empty_package(name: str) -> types.ModuleType:
    # Found from the path of conda-lock alone: to ask for the spec of a submodule would import the parent.
    spec = find_spec("conda_lock")
    paths = [str(Path(each, *name.split(".")[1:])) for each in (spec and spec.submodule_search_locations) or []]
    package = types.ModuleType(name)
    package.__path__ = paths
    package.__spec__ = ModuleSpec(name, None, is_package=True)
    package.__spec__.submodule_search_locations = paths
    if name == "conda_lock":
        package.__spec__ = spec  # importlib.resources reads conda-lock's own files through it
    return package


def _compute(spec: EnvironmentSpec, repodata: Any) -> dict[str, str]:
    """The hashes of files without a `pip:` section, whose parsers in conda-lock would bring a whole solver in."""
    from conda_lock.content_hash import compute_content_hashes
    from conda_lock.models.lock_spec import LockSpecification
    from conda_lock.src_parser.conda_common import conda_spec_to_versioned_dep

    dependencies = {}
    for platform in spec.platforms:
        parsed = [conda_spec_to_versioned_dep(each.text, each.category) for each in platform.conda]
        # Of several lines about one package the last counts. Source: conda_lock/src_parser/aggregation.py.
        dependencies[platform.platform] = list({each.name: each for each in parsed}.values())
    lock_spec = LockSpecification(
        dependencies=dependencies,
        channels=list(spec.channels),
        pip_repositories=list(spec.pip_repositories),
        sources=list(spec.paths),
    )
    return dict(sorted(compute_content_hashes(lock_spec, repodata).items()))


def _compute_from_files(paths: list[Path], platforms: list[str], repodata: Any, scratch: Path) -> dict[str, str]:
    from conda_lock.content_hash import compute_content_hashes

    for name in _EMPTY[1:]:  # here the real ones are needed, and all that they bring
        if getattr(sys.modules[name], "__file__", None) is None:
            del sys.modules[name]
    from conda_lock.src_parser import make_lock_spec

    # An empty mapping keeps conda-lock off the network; it only looks up `pip`, whose name is the same everywhere.
    mapping = scratch / "mapping.json"
    mapping.write_text("{}")
    lock_spec = make_lock_spec(src_files=paths, platform_overrides=platforms, mapping_url=str(mapping))
    return dict(sorted(compute_content_hashes(lock_spec, repodata).items()))


def _virtual_packages(scratch: Path, declared: Mapping[str, Mapping[str, str]] | None) -> Any:
    from conda_lock.virtual_package import default_virtual_package_repodata, virtual_package_repo_from_specification

    # conda-lock removes its directory when the interpreter shuts down, which ours does not (`__main__`); so it is made
    # where we remove it. Source: conda_lock/virtual_package.py, `_init_fake_repodata`.
    before = os.environ.get(_TEMP_VARIABLE)
    os.environ[_TEMP_VARIABLE] = str(scratch)
    try:
        if declared is None:
            return default_virtual_package_repodata()
        path = scratch / "virtual-packages.yml"
        path.write_text(dump(virtual_package_specification(declared)))
        return virtual_package_repo_from_specification(path)
    finally:
        os.environ.pop(_TEMP_VARIABLE)
        if before is not None:
            os.environ[_TEMP_VARIABLE] = before


def _is_readable(spec: EnvironmentSpec) -> bool:
    # conda-lock knows no options in a pip: section; what they come to is given to it instead.
    names = {str(path) for path in spec.paths}
    lines = [each for platform in spec.platforms for each in (*platform.pip, *platform.pip_constraints)]
    inside = all(each.place.rpartition(":")[0] in names for each in lines)
    plain = all(pip_requirements.name_of(each.text) is not None and "--hash" not in each.text for each in lines)
    return inside and plain and not (spec.pip_index or spec.allows_prereleases) and not _has_options(spec)


def _has_options(spec: EnvironmentSpec) -> bool:
    return any(
        line.strip().startswith(("- -", '- "-', "- '-"))
        for path in spec.paths
        for line in path.read_text().splitlines()
    )


def _plain(spec: EnvironmentSpec, platform: PlatformSpec) -> dict[str, Any]:
    dependencies: list[Any] = [each.text for each in platform.conda]
    if platform.pip:
        dependencies.append({"pip": [each.text.partition(" --hash")[0] for each in platform.pip]})
    return {
        "channels": list(spec.channels),
        "dependencies": dependencies,
        "pip-repositories": list(spec.pip_repositories),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
