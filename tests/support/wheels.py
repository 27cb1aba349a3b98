"""Wheels as any build tool makes them, written by hand."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from envtool.lockfile.conda_lock_v1 import LockedPackage


def write_wheel(
    directory: Path,
    name: str,
    version: str,
    files: dict[str, str],
    scripts: dict[str, str],
    mode: int = 0o644,
    *,
    metadata: str = "",
    tag: str = "py3-none-any",
) -> Path:
    """Write a pure-Python wheel.

    Args:
        directory: Where to.
        name: The distribution, with underscores.
        version: Its version.
        files: Path to content; `{data}` in a path stands for the .data directory.
        scripts: Console scripts, name to `module:function`.
        mode: Of every file but the scripts.
        metadata: More lines of METADATA.
        tag: Of its name.
    """
    path = directory / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    points = "".join(f"{script} = {target}\n" for script, target in scripts.items())
    content = {each.format(data=f"{name}-{version}.data"): text for each, text in files.items()}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{points}"
    # RECORD is wrong on purpose, as torch's is: whoever believes it finds files altered that are not.
    content[f"{info}/RECORD"] = "".join(f"{each},sha256=AAAA,1\n" for each in content) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for each, text in content.items():
            entry = zipfile.ZipInfo(each)
            entry.external_attr = (0o755 if "/scripts/" in each else mode) << 16
            wheel.writestr(entry, text)
    return path


def locked_wheel(path: Path) -> LockedPackage:
    """The lock's entry for a wheel on disk."""
    name, version = path.name.split("-")[:2]
    return LockedPackage(
        manager="pip", name=name.replace("_", "-"), version=version, platform="linux-64", url=path.as_uri(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )  # fmt: skip
