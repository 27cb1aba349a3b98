"""The door to uv: the variables that keep it to our interpreter and index, and its install of proven wheels."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from envtool import subprocesses
from envtool.errors import ProcessError, masked
from envtool.fetch.credentials import without_secrets
from envtool.mirrors import pip_index
from envtool.scratch import scratch_directory

_finding = threading.Lock()  # it asks sysconfig, which until Python 3.12 shows its table to others while it fills it


def run(arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run uv and return what it printed; an empty value of `env` takes a variable away. Raises ProcessError."""
    # Otherwise uv may take the environment that envtool runs in, or download an interpreter, for the target.
    ours = {"VIRTUAL_ENV": "", "CONDA_PREFIX": "", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    try:
        variables = {**pip_index.uv_environment(), **ours, **(env or {})}
        return subprocesses.run([_binary(), *arguments], env=variables, cwd=cwd)
    except ProcessError as error:  # it shows the URLs of its variables as they are
        output = without_secrets(masked(error.output))
        raise ProcessError(error.program, error.returncode, output, error.hint) from None


def _binary() -> str:
    from uv import find_uv_bin

    try:
        with _finding:
            return str(find_uv_bin())
    except OSError as error:
        raise ProcessError("uv", 127, str(error).strip(), "pip install --force-reinstall uv puts it there") from error


def install(wheels: Mapping[str, Path], hashes: Mapping[str, str], prefix: Path, cache_dir: Path) -> None:
    """Install proven wheels into a prefix, and nothing else; `hashes` has the sha256 of each `name==version`, and
    `cache_dir` is empty, on the file system of the prefix. Raises ProcessError if uv refused."""
    with scratch_directory() as scratch:
        # A directory of links, not file:// requirements: those would leave a direct_url.json with a path of this
        # machine in every dist-info, and two machines would differ.
        for path in wheels.values():
            (scratch / path.name).symlink_to(path)
        listed = scratch / "requirements.txt"
        listed.write_text("".join(f"{wheel} --hash=sha256:{hashes[wheel]}\n" for wheel in sorted(wheels)))
        argv = ["pip", "install", "--quiet", "--offline", "--no-index", "--find-links", str(scratch), "--no-deps"]
        argv += ["--require-hashes", "--reinstall", "--link-mode", "hardlink", "--cache-dir", str(cache_dir)]
        argv += ["--python", str(prefix / "bin" / "python"), "--requirements", str(listed)]
        run(argv, cwd=scratch)
    # For a wheel from a directory uv notes the time stamp of the file, which would differ on every machine.
    for note in prefix.glob("lib/python3.*/site-packages/*.dist-info/uv_cache.json"):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/uv_cache.json," not in line), encoding="utf-8")


def uninstall(names: Sequence[str], prefix: Path) -> None:
    """Remove distributions that wheels brought from a prefix."""
    argv = ["pip", "uninstall", "--quiet", "--python", str(prefix / "bin" / "python")]
    run([*argv, *names])
