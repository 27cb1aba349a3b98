"""Install of proven wheels into a prefix by uv, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool.pypi import uv
from envtool.scratch import scratch_directory


def install(wheels: Mapping[str, Path], hashes: Mapping[str, str], prefix: Path, cache_dir: Path) -> None:
    """Install proven wheels into a prefix, and nothing else.

    Args:
        hashes: `name==version` to its sha256, which uv checks once more.
        cache_dir: an empty directory on the file system of the prefix, where uv unpacks the wheels.

    Raises:
        ProcessError: uv refused.
    """
    with scratch_directory() as scratch:
        # A directory of links, not file:// requirements: those would leave a direct_url.json with a path of this
        # machine in every dist-info, and two machines would differ.
        for path in wheels.values():
            (scratch / path.name).symlink_to(path)
        listed = scratch / "requirements.txt"
        listed.write_text("".join(f"{each} --hash=sha256:{hashes[each]}\n" for each in sorted(wheels)))
        argv = ["pip", "install", "--quiet", "--offline", "--no-index", "--find-links", str(scratch), "--no-deps"]
        argv += ["--require-hashes", "--reinstall", "--link-mode", "hardlink", "--cache-dir", str(cache_dir)]
        argv += ["--python", str(prefix / "bin" / "python"), "--requirements", str(listed)]
        uv.run(argv, cwd=scratch)
    _forget_origin(prefix)


def uninstall(names: Sequence[str], prefix: Path) -> None:
    """Remove distributions that wheels brought from a prefix."""
    argv = ["pip", "uninstall", "--quiet", "--python", str(prefix / "bin" / "python")]
    uv.run([*argv, *names])


def _forget_origin(prefix: Path) -> None:
    # For a wheel from a directory uv notes the time stamp of the file, which would differ on every machine.
    for note in prefix.glob("lib/python3.*/site-packages/*.dist-info/uv_cache.json"):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/uv_cache.json," not in line), encoding="utf-8")
