"""conda-lock as a second judge of a lock, where it is installed: it reads the file and computes the content hash."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from envtool import subprocesses
from envtool.lockfile.conda_lock_v1 import Lockfile, format_lockfile
from envtool.scratch import scratch_directory
from envtool.solve.content_hash import virtual_package_specification
from envtool.solve.lock import with_virtual_packages
from envtool.spec.environment import EnvironmentSpec

# In another process: importing conda-lock takes a second and replaces modules that it brings along.
_SCRIPT = """\
import json, pathlib, sys
from conda_lock.content_hash import compute_content_hashes
from conda_lock.lockfile import parse_conda_lock_file
from conda_lock.src_parser import make_lock_spec
from conda_lock.virtual_package import virtual_package_repo_from_specification
here = pathlib.Path(sys.argv[1])
parse_conda_lock_file(here / "conda-lock.yml")
names = (here / "names.json").as_uri()  # none: only pip is looked up, which has the same name everywhere
sources, platforms = [pathlib.Path(each) for each in sys.argv[3:]], sys.argv[2].split(",")
spec = make_lock_spec(src_files=sources, platform_overrides=platforms, mapping_url=names)
print(json.dumps(compute_content_hashes(spec, virtual_package_repo_from_specification(here / "virtual.json"))))
"""


def is_installed() -> bool:
    """Whether this Python has conda-lock."""
    return find_spec("conda_lock") is not None


def conda_lock_hashes(lockfile: Lockfile, spec: EnvironmentSpec) -> dict[str, str]:
    """The content hash of each platform as conda-lock computes it, after it has read the lock.

    Raises:
        ProcessError: conda-lock cannot read the lock or the sources.
    """
    declared = {each.platform: each.virtual_packages for each in with_virtual_packages(spec).platforms}
    with scratch_directory() as scratch:
        (scratch / "conda-lock.yml").write_text(format_lockfile(lockfile), encoding="utf-8")
        (scratch / "names.json").write_text("{}")
        (scratch / "virtual.json").write_text(json.dumps(virtual_package_specification(declared)))
        sources = [str(Path(each).resolve()) for each in spec.paths]
        argv = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(scratch), ",".join(sorted(declared)), *sources]
        found: dict[str, str] = json.loads(subprocesses.run(argv, cwd=scratch, env={"RUNNER_TEMP": str(scratch)}))
        return found
