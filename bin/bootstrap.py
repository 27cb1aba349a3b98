"""The virtual environment that the commands of this directory run in: made when it is missing or out of date.

Needs nothing but Python 3.9 and its standard library. What is installed stands in pyproject.toml.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 9)


def ensure(extras, packages=()):
    """Make the virtual environment hold this checkout with some of its extras.

    Args:
        extras: Names of optional dependencies in pyproject.toml.
        packages: More requirements for pip.

    Returns:
        The interpreter of the virtual environment.
    """
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:2])
        sys.exit(f"error: Python {found} is too old\nhint: run this with Python 3.9 or newer")
    venv = Path(os.environ.get("ENVSERVE_VENV") or ROOT / ".venv")
    python = venv / "bin" / "python"
    stamp = venv / "envserve-stamp.json"
    before = _read(stamp)
    wanted = _wanted(extras, packages, before)
    if python.exists() and wanted == before:
        return python
    print(f"setting up {venv} (once; a minute or two)", file=sys.stderr, flush=True)
    if not python.exists():
        _make(venv)
    _install(python, f"{ROOT}[{','.join(wanted['extras'])}]", wanted["packages"])
    stamp.write_text(json.dumps(wanted))
    return python


def _wanted(extras, packages, before):
    # What is there already is kept, so that the commands can take turns without installing anything.
    return {
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": sys.version,
        "extras": sorted({*extras, *before.get("extras", ())}),
        "packages": sorted({*packages, *before.get("packages", ())}),
    }


def _read(stamp):
    try:
        return json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}


def _make(venv):
    # Debian's python3 comes without ensurepip; other makers of environments bring their own pip.
    makers = [
        [sys.executable, "-m", "venv", str(venv)],
        ["uv", "venv", "--seed", "--python", sys.executable, str(venv)],
    ]
    makers.append(["virtualenv", "--python", sys.executable, str(venv)])
    for argv in makers:
        if shutil.which(argv[0]) and subprocess.run(argv, capture_output=True).returncode == 0:
            return
        shutil.rmtree(venv, ignore_errors=True)
    sys.exit("error: no virtual environment can be made\nhint: install python3-venv (apt), virtualenv or uv")


def _install(python, requirement, packages):
    # Twice quiet: pip warns of every directory of its own configuration that is not there.
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    # By pip, which knows all places of its configuration: some machines have a torch of their own.
    _run([*pip, "uv>=0.8", *packages])
    # By uv, which chooses in seconds what takes pip minutes. It reads another configuration, and may lack an index.
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "-e", requirement]
    configured = _output([str(python), "-m", "pip", "config", "get", "global.index-url"])
    index = os.environ.get("PIP_INDEX_URL") or configured
    environ = {**({"UV_DEFAULT_INDEX": index} if index else {}), **os.environ}
    if subprocess.run(uv, env=environ, stderr=subprocess.DEVNULL).returncode != 0:
        _run([*pip, "-e", requirement, *packages])


def _output(argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(argv):
    done = subprocess.run(argv)
    if done.returncode != 0:
        sys.exit(
            f"error: {' '.join(argv)} ended with exit status {done.returncode}\nhint: is the package index reachable?"
        )
