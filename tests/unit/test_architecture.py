"""The import rules of the design, held by reading every module."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The one door, or the few, for each outside thing.
DOORS = {
    "a2wsgi": {"serve/workers/event_loop_worker.py", "serve/ray_app.py"},
    "uvicorn": {"serve/workers/http_protocol.py", "serve/workers/event_loop_worker.py"},
    "gunicorn": {
        "serve/workers/thread_worker.py",
        "serve/workers/process_lifecycle.py",
        "serve/workers/event_loop_worker.py",
        "envtool/channel/server.py",
    },
    "boto3": {"envtool/channel/mirror.py"},
    "cryptography": {"envtool/signing/dsse.py", "serve/checkpoint/dsse.py", "serve/inference/recorder.py"},
    "PIL": {"serve/codec/image.py"},
    "mlflow": {"serve/source/mlflow_registry.py"},
    "orjson": {"serve/codec/strict_json.py"},
    "jinja2": {"envtool/templates.py"},
    "opentelemetry": {"serve/observability/spans.py"},
    "prometheus_client": {"serve/metrics/metric_families.py"},
    "ray": {"envtool/ray_plugin.py", "serve/fleet/ray_keys.py", "serve/ray_app.py"},
    "rattler": {"envtool/solve/conda_solver.py", "envtool/prefix/rattler.py", "envtool/channel/index.py"},
    "rich": {"envtool/console.py"},
    "subprocess": {"envtool/subprocesses.py", "serve/events/webhook.py", "serve/development/dev_server.py"},
    "torch": {
        "serve/publishing/conversion.py",
        *(f"serve/model/{name}.py" for name in ("batch_independence", "example", "inputs", "request_state", "tensors")),
        *(f"serve/model/{name}.py" for name in ("outputs", "request_memory", "torch_predictor", "trial", "weights")),
    },
    "urllib3": {"envtool/fetch/client.py"},
    "uv": {"envtool/pypi/uv.py"},
    "werkzeug": {"envtool/channel/server.py", "serve/gateway/flask_app.py"},
    "watchdog": {"serve/source/file_events.py"},
    "yaml": {"envtool/yaml_document.py"},
}


def modules(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The full names of all that a module imports, inside functions too, but not for type checking only."""
    tree = ast.parse(path.read_text())
    ignored = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


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
    assert not loaded_by("import serve.gateway.flask_app") & {"torch", "rattler", "rich", "conda_lock", "envtool"}


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


# A package imports only what stands before it in its half's list.
STOREYS = {
    "envtool": """
        errors paths atomic_files console file_lock subprocesses scratch toml yaml_document templates fetch lockfile
        mirrors artifacts signing spec pypi wheels source_builds prefix package_cache verify install solve inspect_lock
        export audit policy image channel bundle deploy doctor cli ray_plugin __main__
    """,
    "serve": """
        errors durable_files codec http events checkpoint settings system policy source store rollout model swap fleet
        inference batching protocols operations metrics observability gateway workers publishing development
        cli gunicorn_conf wsgi ray_app __main__
    """,
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(half: str) -> dict[str, frozenset[str]]:
    """What each module of a half imports of its half, by full names."""
    known = {name_of(path): path for path in modules(half)}
    return {name: imports(path) & set(known) - {name, half} for name, path in known.items()}


@pytest.mark.parametrize("half", STOREYS)
def test_a_package_imports_only_what_stands_before_it(half: str) -> None:
    place = {f"{half}.{package}": number for number, package in enumerate(STOREYS[half].split())}

    def storey(module: str) -> int:
        return place[".".join(module.split(".")[:2])]

    graph = graph_of(half)
    upward = [(name, used) for name in graph for used in graph[name] if name != half and storey(used) > storey(name)]
    assert upward == []


@pytest.mark.parametrize("half", STOREYS)
def test_no_files_import_each_other_in_a_circle(half: str) -> None:
    # Raises CycleError, which names the circle.
    assert set(graphlib.TopologicalSorter(graph_of(half)).static_order()) == set(graph_of(half))


@pytest.mark.parametrize("half", STOREYS)
def test_no_chain_of_imports_is_longer_than_twelve(half: str) -> None:
    graph = graph_of(half)
    chains: dict[str, list[str]] = {}
    for module in graphlib.TopologicalSorter(graph).static_order():
        chains[module] = [module, *max((chains[used] for used in graph[module]), key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= 12, longest
