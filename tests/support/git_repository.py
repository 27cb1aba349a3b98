"""A real git repository of a small project that builds its own wheel, so that a build needs no package index."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """\
import os, pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    version = os.environ.get("SETUPTOOLS_SCM_PRETEND_VERSION") or pathlib.Path("version.txt").read_text().strip()
    name = f"{NAME}-{version}-{TAG}.whl"
    info = f"{NAME}-{version}.dist-info"
    files = {
        f"{NAME}.py": pathlib.Path("module.py").read_text() + MORE,
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {NAME}\\nVersion: {version}\\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: {TAG}\\n",
    }
    with zipfile.ZipFile(pathlib.Path(directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)  # with the time of now, as a careless backend does
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


class GitRepository:
    """A repository that is written to as people do: commits, branches, tags.

    Args:
        root: Its directory, made here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        """As git takes it."""
        return self.root.as_uri()

    def commit(
        self, version: str, name: str = "greet", below: str = "", tag: str = "py3-none-any", more: str = "''"
    ) -> str:
        """Commit a version of a project; the hash of the commit is returned.

        Args:
            version: The version that it has.
            name: The distribution.
            below: The directory in the repository.
            tag: The tag of the wheel that it builds.
            more: A Python expression whose value is put into the wheel when it is built.
        """
        place = self.root / below
        place.mkdir(parents=True, exist_ok=True)
        backend = f"import time\nNAME, TAG, MORE = {name!r}, {tag!r}, {more}\n{_BACKEND}"
        files = {"pyproject.toml": _PYPROJECT, "backend.py": backend, "version.txt": version}
        for path, text in {**files, "module.py": f"VERSION = {version!r}\n"}.items():
            (place / path).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", version)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git in the repository."""
        who = {f"GIT_{role}_{what}": "a@b.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        dates = {"GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"}
        env = {**os.environ, **who, **dates, "GIT_CONFIG_GLOBAL": os.devnull}
        argv = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def publish(self, directory: Path) -> None:
        """Put a copy where a plain file server can serve it."""
        self.git("clone", "--quiet", "--bare", self.url, str(directory))
        subprocess.run(["git", "-C", str(directory), "update-server-info"], check=True)
