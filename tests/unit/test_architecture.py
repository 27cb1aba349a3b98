"""The import rules of the design, held by reading every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The one door, or the few, for each outside thing.
DOORS = {
    "a2wsgi": {"serve/workers/event_loop_worker.py"},
    "uvicorn": {
        "serve/workers/http_protocol.py",
        "serve/workers/header_cache.py",
        "serve/workers/event_loop_worker.py",
    },
    "gunicorn": {
        "serve/workers/thread_worker.py",
        "serve/workers/reload_handover.py",
        "serve/workers/lingering.py",
        "serve/workers/event_loop_worker.py",
        "envtool/channel/server.py",
    },
    "boto3": {"envtool/channel/s3_storage.py"},
    "cryptography": {"envtool/signing/ed25519.py", "serve/checkpoint/signature.py"},
    "PIL": {"serve/codec/image.py"},
    "orjson": {"serve/codec/strict_json.py"},
    "jinja2": {"envtool/templates.py"},
    "opentelemetry": {"serve/observability/spans.py"},
    "prometheus_client": {"serve/metrics/metric_families.py"},
    "rattler": {"envtool/solve/conda_solver.py", "envtool/prefix/rattler.py", "envtool/channel/index.py"},
    "rich": {"envtool/console.py"},
    "structlog": {"serve/events/event_log.py"},
    "subprocess": {"envtool/subprocesses.py", "serve/events/webhook.py"},
    "torch": {
        "serve/publishing/conversion.py",
        "serve/publishing/tensors_only.py",
        *(
            f"serve/loading/{name}.py"
            for name in ("inputs", "optimization", "outputs", "rows", "state", "tensors", "ties", "variants", "weights")
        ),
    },
    "urllib3": {f"envtool/fetching/{name}.py" for name in ("certificates", "network", "transport")},
    "uv": {"envtool/pypi/uv.py"},
    "werkzeug": {"envtool/channel/wsgi.py", "serve/app/__init__.py"},
    "watchdog": {"serve/source/file_events.py"},
    "yaml": {"envtool/yaml_document.py"},
}


def modules(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")))


def imports(path: Path) -> set[str]:
    """The full names of all that a module imports, inside functions too, but not for type checking only."""
    tree = ast.parse(path.read_text())
    ignored = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_envtool_and_serve_never_import_each_other() -> None:
    for package, other in (("envtool", "serve"), ("serve", "envtool")):
        for path in modules(package):
            assert not {name for name in imports(path) if name.split(".")[0] == other}, path


@pytest.mark.parametrize("thing", DOORS)
def test_every_outside_thing_has_its_door(thing: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for package in ("envtool", "serve")
        for path in modules(package)
        if thing in {name.split(".")[0] for name in imports(path)}
    }
    assert users == DOORS[thing]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded after a statement in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_importing_serve_needs_neither_torch_nor_envtools_libraries() -> None:
    loaded = loaded_by("import serve")
    assert not loaded & {"torch", "rattler", "conda_lock", "click", "rich", "yaml", "envtool"}


def test_importing_the_application_needs_no_torch() -> None:
    # Not rich: structlog imports it where it is there, as in an environment that has both halves.
    assert not loaded_by("import serve.app") & {"torch", "rattler", "conda_lock", "envtool"}


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("import envtool.cli, click\nenvtool.cli.cli.get_help(click.Context(envtool.cli.cli))")
    assert not loaded & {"torch", "rattler", "conda_lock", "urllib3", "rich", "yaml", "jinja2", "serve"}


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    hosts = [
        "pypi" + ".org",
        "python" + "hosted.org",
        "deb.debian" + ".org",
        "security.debian" + ".org",
        "npmjs" + ".org",
    ]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    for name in listed.stdout.splitlines():
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not [host for host in hosts if host.encode() in content], name


# What a package of envtool may import of the others: bytes at the bottom, then locks, then prefixes.
LAYERS = {
    "fetching": set(),
    "mirroring": {"fetching"},
    "building": {"channel", "fetching", "locking", "mirroring", "prefixes"},
    "locking": {"building", "fetching", "mirroring"},
    "unpacked": {"fetching", "locking", "prefixes"},
    "prefixes": {"building", "channel", "fetching", "locking", "mirroring", "unpacked"},
}
# Reads archives and knows nothing of prefixes.
ARCHIVES = "envtool.artifacts.dist_info"


@pytest.mark.parametrize("package", LAYERS)
def test_what_is_below_does_not_know_what_is_above(package: str) -> None:
    packages = {path.parent.name for path in (ROOT / "envtool").glob("*/__init__.py")} - {package}
    for path in modules(f"envtool/{package}"):
        named = {name for name in imports(path) if name.startswith("envtool.") and not name.startswith(ARCHIVES)}
        used = {name.split(".")[1] for name in named}
        assert used & packages <= LAYERS[package], path
