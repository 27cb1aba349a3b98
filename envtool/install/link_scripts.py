"""Link scripts: programs that a conda package wants run when it is linked or unlinked. They may write anywhere, and
differently on every machine, so that only the post-link scripts of packages that `run-link-scripts` in environment.yml
names are run: after all packages are there, in conda's order and with its variables, confined to the prefix where the
kernel has Landlock. What they make is noted as generated. Source: CEP 34; conda-build's documentation, "Adding
pre-link, post-link, and pre-unlink scripts"; docs/reference/archives.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from envtool import subprocesses
from envtool.artifacts.file_manifest import Declared
from envtool.errors import PrefixError
from envtool.prefix.confinement import LAUNCHER, landlock_version
from envtool.prefix.rattler import link_order

if TYPE_CHECKING:
    from envtool.install.create import Transaction
    from envtool.lockfile.model import LockedPackage
    from envtool.prefix.prefix import Prefix

_MESSAGES = ".messages.txt"
_MOST_MESSAGE_BYTES = 65_536


def run_link_scripts(transaction: Transaction) -> tuple[str, ...]:
    """Run what the lock allows; returns what scripts say to people. Raises ProcessError, PrefixError if notes were
    changed."""
    conda = {package.name: package for package in transaction.wanted if package.manager == "conda"}
    order = link_order({name: list(each.dependencies) for name, each in conda.items()}, ())
    allowed = [conda[name] for name in order if name in transaction.request.link_scripts()]
    prefix = transaction.prefix
    messages = []
    for package in allowed:
        script = prefix.path / post_link_script(package.name)
        if script.is_file():
            with transaction.display.task(f"run {post_link_script(package.name)}"), _kept_notes(prefix, package.name):
                messages.append(_run(package, prefix.path, script))
    return tuple(filter(None, messages))


_HINT = "take it out of run-link-scripts in environment.yml, lock and create again"


@contextmanager
def _kept_notes(prefix: Prefix, name: str) -> Iterator[None]:
    noted = _notes(prefix.meta)
    try:
        yield
    finally:
        is_altered = _notes(prefix.meta) != noted
        if is_altered:
            prefix.mark_incomplete()  # the mark may be what was taken away
    if is_altered:
        raise PrefixError(f"the link script of {name} changed {prefix.meta}", _HINT)


def _notes(meta: Path) -> dict[str, tuple[int, int]]:
    return {each.name: (each.stat().st_size, each.stat().st_mtime_ns) for each in meta.iterdir() if each.is_file()}


def _run(package: LockedPackage, prefix: Path, script: Path) -> str | None:
    # A place for what programs leave below HOME and TMPDIR; it does not stay.
    scratch = prefix / "conda-meta/.scratch"
    scratch.mkdir(exist_ok=True)
    version = package.version
    record = json.loads((prefix / f"conda-meta/{package.name}-{version}-{package.build_string}.json").read_bytes())
    variables = {
        "PREFIX": str(prefix), "ROOT_PREFIX": str(prefix), "CONDA_PREFIX": str(prefix), "PKG_NAME": package.name,
        "PKG_VERSION": version, "PKG_BUILDNUM": str(record["build_number"]), "HOME": str(scratch),
        "TMPDIR": str(scratch), "PATH": f"{prefix}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": "0",
        **dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"), ""),
    }  # fmt: skip
    argv = [sys.executable, "-I", str(LAUNCHER), str(prefix), "bash", "--noprofile", "--norc", str(script)]
    try:
        subprocesses.run(argv, env=variables, cwd=prefix, hint=f"{script} failed; {_HINT}")
        path = prefix / _MESSAGES
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(_MOST_MESSAGE_BYTES).decode(errors="replace").strip()
        path.unlink()
        return f"{package.name}: {text}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def confinement() -> str:
    """In words, what the scripts can write to on this machine."""
    if landlock_version():
        return "they could write to the environment alone"
    return "not confined, since Landlock is not available here: they could write wherever you can"


_SCRIPT = re.compile(r"bin/\.[^/]+-(?:pre-link|post-link|pre-unlink)\.sh")


def is_link_script(path: str) -> bool:
    """Whether a path of a package is that of a link script."""
    return _SCRIPT.fullmatch(path) is not None


def link_scripts(declared: Mapping[str, Declared]) -> dict[str, list[str]]:
    """The link scripts of a prefix, by conda package."""
    found: dict[str, list[str]] = {}
    for path, file in declared.items():
        if file.package[0] == "conda" and is_link_script(path):
            found.setdefault(file.package[1], []).append(path)
    return {name: sorted(paths) for name, paths in sorted(found.items())}


def post_link_script(name: str) -> str:
    """The path of the script that a package wants run after it was linked."""
    return f"bin/.{name}-post-link.sh"


def split(found: Mapping[str, Iterable[str]], allowed: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Link scripts by package as those that are not run and those that are, when scripts of some packages may run."""
    run = [
        post_link_script(name) for name, paths in found.items() if name in allowed and post_link_script(name) in paths
    ]
    left = {name: [path for path in paths if path not in run] for name, paths in found.items()}
    return {name: paths for name, paths in left.items() if paths}, run


def sentence(name: str, paths: Iterable[str]) -> str:
    """What there is to say of the link scripts of one package."""
    return f"{name} has link scripts, which envtool does not run: {', '.join(paths)}"
