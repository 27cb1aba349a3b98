"""The `pip:` section: uv chooses the wheels of a target and installs exactly the locked ones. The one door to uv.

Out of scope: source distributions. A build runs code of strangers and gives other bytes on every machine, so a
requirement that has no wheel is an error.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool import process, pypi
from envtool.errors import ProcessError, SolveError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# manylinux tags that uv knows as targets; a wheel for an older glibc runs on a newer one, never the reverse.
_UV_GLIBC_TARGETS = (
    (2, 17),
    (2, 28),
    (2, 31),
    (2, 32),
    (2, 33),
    (2, 34),
    (2, 35),
    (2, 36),
    (2, 37),
    (2, 38),
    (2, 39),
    (2, 40),
)
_DEFAULT_GLIBC = "2.28"
_MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
_UV_PLATFORMS = {
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
    "win-64": "x86_64-pc-windows-msvc",
}


@dataclass(frozen=True)
class Target:
    """The interpreter that the wheels are for.

    Args:
        platform: A conda subdir.
        python_version: Such as `3.9.2`.
        glibc: The declared `__glibc`, which bounds the manylinux tags.
    """

    platform: str
    python_version: str
    glibc: str | None = None

    @property
    def uv_platform(self) -> str:
        """The target as uv's `--python-platform` names it."""
        machine = _MACHINES.get(self.platform)
        if machine is None:
            return _UV_PLATFORMS[self.platform]
        declared = tuple(int(part) for part in (self.glibc or _DEFAULT_GLIBC).split(".")[:2])
        fitting = [each for each in _UV_GLIBC_TARGETS if each <= declared] or [_UV_GLIBC_TARGETS[0]]
        return f"{machine}-manylinux_{fitting[-1][0]}_{fitting[-1][1]}"


@dataclass(frozen=True)
class Wheel:
    """One locked wheel.

    Args:
        name: The distribution's normalized name.
        version: Its version.
        url: Where the index has it.
        sha256: Hash of the file.
        size_bytes: Size of the file, where the index says it.
    """

    name: str
    version: str
    url: str
    sha256: str
    size_bytes: int | None


def choose(requirements: Sequence[str], target: Target, provided: Mapping[str, str]) -> list[Wheel]:
    """Choose the wheels that satisfy requirements.

    Args:
        requirements: The lines of the `pip:` section.
        target: What they have to run on.
        provided: Distributions that conda packages bring already, name to version; they are not chosen again.

    Returns:
        The wheels, sorted by name.

    Raises:
        SolveError: Nothing satisfies the requirements; uv's own words.
    """
    with tempfile.TemporaryDirectory(prefix="envtool-") as scratch:
        wanted, fixed, locked = (Path(scratch) / name for name in ("requirements.in", "provided.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements) + "\n")
        fixed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(provided.items())))
        argv = [_uv(), "pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:", "--format", "pylock.toml"]
        argv += ["--python", sys.executable, "--python-version", target.python_version]
        argv += ["--python-platform", target.uv_platform, "--constraints", str(fixed), "--output-file", str(locked)]
        for name in sorted(provided):
            argv += ["--no-emit-package", name]
        try:
            process.run([*argv, str(wanted)], env=_environment(), cwd=Path(scratch))
        except ProcessError as error:
            raise SolveError(
                f"{target.platform}: the pip section cannot be satisfied:\n{error.output}", _solve_hint(error)
            ) from error
        return parse_pylock(locked.read_text())


def parse_pylock(text: str) -> list[Wheel]:
    """The wheels of a pylock.toml (PEP 751) that uv resolved for one target."""
    packages: list[dict[str, Any]] = tomllib.loads(text).get("packages", [])
    return sorted((_wheel(each) for each in packages), key=lambda wheel: wheel.name)


def install(wheels: Mapping[str, Path], hashes: Mapping[str, str], prefix: Path, cache_dir: Path) -> None:
    """Install proven wheels into a prefix, and nothing else.

    Args:
        wheels: `name==version` to the proven file.
        hashes: `name==version` to its sha256, which uv checks once more.
        prefix: The prefix, with its Python in place.
        cache_dir: An empty directory on the file system of the prefix, where uv unpacks the wheels.

    Raises:
        ProcessError: uv refused.
    """
    with tempfile.TemporaryDirectory(prefix="envtool-") as scratch:
        # A directory of links, not file:// requirements: those would leave a direct_url.json with a path of this
        # machine in every dist-info, and two machines would differ.
        for path in wheels.values():
            (Path(scratch) / path.name).symlink_to(path)
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text("".join(f"{each} --hash=sha256:{hashes[each]}\n" for each in sorted(wheels)))
        argv = [_uv(), "pip", "install", "--quiet", "--offline", "--no-index", "--find-links", scratch, "--no-deps"]
        argv += ["--require-hashes", "--reinstall", "--link-mode", "hardlink", "--cache-dir", str(cache_dir)]
        argv += ["--python", str(prefix / "bin" / "python"), "--requirements", str(requirements)]
        process.run(argv, env=_environment(), cwd=Path(scratch))
    _forget_origin(prefix)


def uninstall(names: Sequence[str], prefix: Path) -> None:
    """Remove distributions that wheels brought from a prefix."""
    argv = [_uv(), "pip", "uninstall", "--quiet", "--python", str(prefix / "bin" / "python")]
    process.run([*argv, *names], env=_environment())


def _forget_origin(prefix: Path) -> None:
    # For a wheel from a directory uv notes the time stamp of the file, which would differ on every machine.
    for note in prefix.glob("lib/python3.*/site-packages/*.dist-info/uv_cache.json"):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/uv_cache.json," not in line), encoding="utf-8")


def _uv() -> str:
    from uv import find_uv_bin

    return str(find_uv_bin())


def _environment() -> dict[str, str]:
    # Otherwise uv may take the environment that envtool runs in, or download an interpreter, for the target.
    return {
        **pypi.uv_environment(),
        "VIRTUAL_ENV": "",
        "CONDA_PREFIX": "",
        "UV_PYTHON_DOWNLOADS": "never",
        "NO_COLOR": "1",
    }


def _wheel(package: Mapping[str, Any]) -> Wheel:
    # uv writes only the wheels that fit the target, the best one first.
    source = package.get("archive") or package["wheels"][0]
    return Wheel(
        name=package["name"],
        version=str(package.get("version", "")),
        url=source["url"],
        sha256=source["hashes"]["sha256"],
        size_bytes=source.get("size"),
    )


def _solve_hint(error: ProcessError) -> str:
    if "error sending request" in error.output or "dns error" in error.output:
        return "the package index cannot be reached; set PIP_INDEX_URL or UV_DEFAULT_INDEX to one that can"
    return "change the versions in the pip: section of environment.yml"
