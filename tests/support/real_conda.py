"""A real conda, 24.7.1, out of what conda-lock 3.0.4 brings along: the package index has no conda of its own.

The solver is the classic one; libmamba's is in no wheel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.environments import make_environment

_BRINGS_CONDA = ["conda-lock==3.0.4"]
_NEEDS = [
    "archspec>=0.2.3,<1",
    "boltons>=23",
    "conda-package-handling>=2.2,<3",
    "distro>=1.5,<2",
    "frozendict>=2.4,<3",
    "packaging>=23",
    "platformdirs>=3.10,<5",
    "pluggy>=1,<2",
    "pycosat==0.6.6",
    "requests>=2.28,<3",
    "ruamel.yaml>=0.17,<0.20",
    "tqdm>=4,<5",
    "zstandard>=0.19,<1",
]


@dataclass(frozen=True)
class Conda:
    """Runs conda with a home of its own, where its configuration and its cache of packages are.

    Args:
        program: What to run.
        home: The home; a .condarc may lie there.
    """

    program: Path
    home: Path

    @property
    def env(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA", "PYTHON", "PIP"))}
        own = {"HOME": str(self.home), "CONDA_PKGS_DIRS": str(self.home / "pkgs"), "CONDA_SOLVER": "classic"}
        quiet = {"CONDA_ALWAYS_YES": "1", "CONDA_NUMBER_CHANNEL_NOTICES": "0", "CONDA_REPORT_ERRORS": "0"}
        # conda would otherwise add pip to whatever has a Python.
        return {**outside, **own, **quiet, "CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY": "0"}

    def run(self, *arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run conda to its end; the exit code must be the one that is expected."""
        argv = [str(self.program), *(str(argument) for argument in arguments)]
        done = subprocess.run(argv, cwd=self.home, env={**self.env, **env}, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: object) -> Any:
        """What conda answers with --json."""
        return json.loads(self.run(*arguments, "--json").stdout)


def find_conda(home: Path) -> Conda:
    """A conda; the test is skipped where the package index cannot be reached."""
    python = make_environment(_NEEDS, _BRINGS_CONDA, _put_conda_in_place)
    home.mkdir(parents=True, exist_ok=True)
    return Conda(python.with_name("conda"), home)


def _put_conda_in_place(environment: Path) -> None:
    vendored = next(environment.glob("lib/python3.*/site-packages/conda_lock/_vendor/conda"))
    conda = vendored.parents[2] / "conda"
    shutil.copytree(vendored, conda)
    for path in conda.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "conda_lock._vendor.conda" in text:
            path.write_text(text.replace("conda_lock._vendor.conda", "conda"), encoding="utf-8")
    # What tells conda that this is its base environment.
    (environment / "conda-meta").mkdir()
    (environment / "conda-meta" / "history").touch()
    (environment / "condabin").mkdir()
    launcher = environment / "bin" / "conda"
    # Guarded, since it is imported again where conda looks for a GPU.
    body = "import sys\nfrom conda.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    launcher.write_text(f"#!{environment / 'bin' / 'python'}\n{body}")
    launcher.chmod(0o755)
