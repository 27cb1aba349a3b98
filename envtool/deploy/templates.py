"""The templates of `envtool deploy render`, in `templates/deploy`, and their descriptions.

The `variables.yml` beside them describes every kind, and every variable once; which variables a kind takes is read from
its template. The user's own directory comes first, as for the templates of environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envtool import paths
from envtool.atomic_files import write_atomically
from envtool.errors import InvalidFileError, TemplateError
from envtool.templates import Template, Variable, names_in, read_variables, render, template_root
from envtool.yaml_document import YamlDocument, read_text

_SUFFIX = ".j2"


@dataclass(frozen=True)
class DeployTemplate:
    """One file that can be made."""

    template: Template
    output: str


def kinds(own: Path | None = None) -> dict[str, DeployTemplate]:
    """Everything that can be made, by name; the user's own templates come first and hide envtool's. They are in a
    directory of their own, with a directory deploy/, or in the one under envtool's home."""
    if own is not None:
        read_text(own / "deploy" / "variables.yml", "a directory of templates has deploy/variables.yml and deploy/*.j2")
    found: dict[str, DeployTemplate] = {}
    for root in (own or paths.home() / "templates", template_root()):
        for name, kind in _described(root / "deploy").items():
            found.setdefault(name, kind)
    return found


def find_kind(name: str, own: Path | None = None) -> DeployTemplate:
    """The kind of a name."""
    known = kinds(own)
    if name not in known:
        raise TemplateError(f"unknown template {name!r}", f"templates: {', '.join(known)}")
    return known[name]


def write_scripts(root: Path, start: Path, app: str) -> None:
    """Write the start script and the settings of gunicorn, once: from then on they are the user's."""
    for name, path in (("gunicorn", start), ("gunicorn-conf", root / "gunicorn.conf.py")):
        if path.exists():
            continue
        template, values = find_kind(name).template, {"root": str(root), "app": app}
        write_atomically(path, render(template, {each.name: values[each.name] for each in template.variables}))
        if path == start:
            path.chmod(0o755)


def _described(directory: Path) -> dict[str, DeployTemplate]:
    path = directory / "variables.yml"
    files = {each.name.partition(".")[0]: each for each in sorted(directory.glob(f"*{_SUFFIX}"))}
    if not files:
        return {}
    document = YamlDocument(str(path), path.read_text(encoding="utf-8") if path.exists() else "")
    about = document.mapping(document.root, "the file", ("kinds", "variables"))
    variables = {variable.name: variable for variable in read_variables(document, about.get("variables"), "variables")}
    described = document.mapping(about.get("kinds"), "kinds")
    found = {}
    for name, file in files.items():
        said = document.mapping(described.get(name), name, ("description", "output"))
        description = document.string(said.get("description"), "description") or ""
        output = document.string(said.get("output"), "output") or file.name[: -len(_SUFFIX)]
        # A variable without a description has to be given.
        used = tuple(variables.get(each, Variable(each, "", None)) for each in names_in(file))
        found[name] = DeployTemplate(Template(name, file, description, used), output)
    if document.issues:
        raise InvalidFileError(str(path), document.issues)
    # In the order in which people wrote them down, what they did not describe at the end.
    order = [*(each for each in described if each in found), *(each for each in found if each not in described)]
    return {name: found[name] for name in order}
