"""environment.yml made of what a project has: requirements, an export, pyproject.toml, pixi.toml, or its imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envtool import toml
from envtool.errors import EnvtoolError
from envtool.yaml_document import YamlDocument, dump

_DEFAULT_PYTHON = "3.11"
# conda-forge's packages of modules that have another name.
_PACKAGES = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv", "dateutil": "python-dateutil", "dotenv": "python-dotenv",
    "fitz": "pymupdf", "git": "gitpython", "jwt": "pyjwt", "serial": "pyserial", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "torch": "pytorch", "yaml": "pyyaml", "zmq": "pyzmq",
}  # fmt: skip
_LINUX = {"__glibc": "2.28", "__linux": "5.10"}
_MACHINES = {
    "linux-64": {**_LINUX, "__archspec": "1 x86_64"},
    "linux-aarch64": {**_LINUX, "__archspec": "1 aarch64"},
    "osx-64": {"__osx": "13.0"},
    "osx-arm64": {"__osx": "13.0"},
}
_LOCAL = re.compile(r"\s*(-e|--editable|\.|/|file:)")
_SKIPPED = {".venv", "venv", "node_modules", "site-packages", "build", "dist", "__pycache__"}


def convert(path: Path, name: str) -> tuple[str, list[str]]:
    """The text of an environment.yml made of requirements.txt, pyproject.toml, pixi.toml, conda's export or the imports
    in a directory; and what was left out or needs a look. Raises EnvtoolError if the path is none of these."""
    notes: list[str] = []
    try:
        if path.is_dir():
            found = _from_imports(path)
        elif path.name == "pixi.toml":
            found = _from_pixi(toml.loads(path.read_text("utf-8")), notes)
        elif path.suffix == ".toml":
            found = _from_pyproject(toml.loads(path.read_text("utf-8")), notes)
        elif path.suffix in (".yml", ".yaml"):
            found = _from_export(path, notes)
        else:
            found = {"dependencies": [f"python={_DEFAULT_PYTHON}", "pip", {"pip": [f"-r {path.name}"]}]}
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError, SyntaxError) as error:
        raise EnvtoolError(
            f"{path}: {error}", "name requirements.txt, pyproject.toml, an export, or a directory"
        ) from error
    whole = {"name": name, "channels": ["conda-forge", "nodefaults"], "platforms": ["linux-64"], **found}
    whole["virtual-packages"] = {platform: _MACHINES.get(platform, {}) for platform in whole["platforms"]}
    # Selectors are comments, which YAML's own writer puts into quotes.
    return re.sub(r"^(\s*- )'(.*  # \[.*\])'$", r"\1\2", dump(whole), flags=re.MULTILINE), notes


def _from_pyproject(stated: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    project = stated.get("project", {})
    if not project:
        raise EnvtoolError("pyproject.toml: expected a table [project], found none", "poetry's own tables are not read")
    if project.get("optional-dependencies"):
        notes.append(f"left out: the extras {', '.join(project['optional-dependencies'])}")
    wheels = list(project.get("dependencies", ()))
    requires = project.get("requires-python", "").replace(" ", "")
    python = f"python {requires}" if requires else f"python={_DEFAULT_PYTHON}"
    return {"dependencies": [python, "pip", *([{"pip": wheels}] if wheels else [])]}


def _from_pixi(stated: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    about = stated.get("workspace", stated.get("project", {}))
    left = sorted(set(stated) & {"feature", "environments", "tasks", "activation"})
    if left:
        notes.append(f"left out: {', '.join(left)}")
    lines = [_pixi_line(name, spec) for name, spec in stated.get("dependencies", {}).items()]
    for platform, target in stated.get("target", {}).items():
        selector = platform.replace("-64", "64").replace("-", " and ")
        lines += [f"{_pixi_line(name, spec)}  # [{selector}]" for name, spec in target.get("dependencies", {}).items()]
    wheels = [_pypi_line(name, spec) for name, spec in stated.get("pypi-dependencies", {}).items()]
    if any("path" in spec for spec in stated.get("pypi-dependencies", {}).values() if isinstance(spec, dict)):
        notes.append("left out: projects by their path")
    found: dict[str, Any] = {"channels": [*about.get("channels", ["conda-forge"]), "nodefaults"]}
    if about.get("platforms"):
        found["platforms"] = list(about["platforms"])
    return {**found, "dependencies": [*lines, *(["pip", {"pip": list(filter(None, wheels))}] if any(wheels) else [])]}


def _pixi_line(name: str, spec: object) -> str:
    stated: dict[str, Any] = spec if isinstance(spec, dict) else {"version": spec}
    version, build = stated.get("version", "*"), f" {stated['build']}" if "build" in stated else ""
    channel = f"{stated['channel']}::" if "channel" in stated else ""
    return channel + (name if version == "*" else f"{name} {version}{build}")


def _pypi_line(name: str, spec: object) -> str:
    stated: dict[str, Any] = spec if isinstance(spec, dict) else {"version": spec}
    name += f"[{','.join(stated['extras'])}]" if stated.get("extras") else ""
    if "path" in stated:
        return ""
    if "git" in stated:
        revision = next((f"@{stated[key]}" for key in ("rev", "tag", "branch") if key in stated), "")
        return f"{name} @ git+{stated['git']}{revision}"
    if "url" in stated:
        return f"{name} @ {stated['url']}"
    return name if stated.get("version", "*") == "*" else f"{name}{stated['version']}"


def _from_export(path: Path, notes: list[str]) -> dict[str, Any]:
    document = YamlDocument(str(path), path.read_text("utf-8"))
    about = document.mapping(document.root, "the file")
    lines: list[Any] = []
    for item in document.items(about.get("dependencies"), "dependencies"):
        if isinstance(item.data, str):
            # Builds are of one platform, and go from the channel first.
            name, _, version = item.data.partition("=")
            lines.append(
                f"{name}={version.partition('=')[0]}" if version and not name.endswith(tuple("<>!~")) else item.data
            )
        else:
            wheels = [text for text, _ in document.strings(document.mapping(item, "pip").get("pip"), "pip")]
            local = [text for text in wheels if _LOCAL.match(text)]
            notes += [f"left out: {', '.join(local)}"] if local else []
            lines.append({"pip": [text for text in wheels if text not in local]})
    if document.issues:
        raise EnvtoolError(f"{path}: {document.issues[0]}", "an export of conda has `dependencies`")
    channels = [text for text, _ in document.strings(about.get("channels"), "channels")] or ["conda-forge"]
    if len(lines) > 60:
        notes.append("it pins what others need as well: `conda env export --from-history` is the better beginning")
    return {"channels": [*channels, "nodefaults"] if "defaults" not in channels else channels, "dependencies": lines}


def _from_imports(directory: Path) -> dict[str, Any]:
    files = [path for path in sorted(directory.rglob("*.py")) if not _SKIPPED & set(path.relative_to(directory).parts)]
    own = {path.stem for path in files} | {path.parent.name for path in files}
    known = getattr(sys, "stdlib_module_names", frozenset(sys.builtin_module_names))
    modules = {name for path in files for name in _imported(ast.parse(path.read_text("utf-8"), str(path)))}
    packages = sorted(_PACKAGES.get(name, name.lower().replace("_", "-")) for name in modules - own - set(known))
    return {"dependencies": [f"python={_DEFAULT_PYTHON}", "pip", *packages]}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
