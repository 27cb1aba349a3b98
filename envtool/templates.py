"""Templates to text, and the one door to Jinja2. A directory of templates has `environment/` and `deploy/`, whose files
and variables a `variables.yml` describes; the user's own (`templates/` under envtool's home) comes before envtool's.
Rendering is strict: what is not defined is an error."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envtool import paths
from envtool.errors import InvalidFileError, MissingFileError, TemplateError
from envtool.yaml_document import Value, YamlDocument, read_text

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Variable:
    """A variable of a template."""

    name: str
    help: str
    default: str | None  # its value when none is given; None when one has to be given
    choices: tuple[str, ...] = ()  # the values that it takes; empty when it takes any
    pattern: str = ""  # a regular expression that a value has to match in full; empty when any does


@dataclass(frozen=True)
class Template:
    """A template of an environment specification, or of a file for another tool."""

    name: str
    path: Path
    description: str
    variables: tuple[Variable, ...]
    output: str = ""  # the usual name of the file for another tool


def templates(own: Path | None = None) -> dict[str, Template]:
    """The templates of environment specifications by name; those of the user, or in `own`, come first and hide ours."""
    return _by_name(own, "variables.yml", "a variables.yml and a directory environment/", _environments)


def kinds(own: Path | None = None) -> dict[str, Template]:
    """What `envtool deploy render` makes, in the same way."""
    return _by_name(own, "deploy/variables.yml", "deploy/variables.yml and deploy/*.j2", _kinds)


def find_kind(name: str, own: Path | None = None) -> Template:
    """The template of a file for another tool. Raises TemplateError if there is none of the name."""
    known = kinds(own)
    if name not in known:
        raise TemplateError(f"unknown template {name!r}", f"templates: {', '.join(known)}")
    return known[name]


def _by_name(
    own: Path | None, variables: str, what: str, read: Callable[[Path, YamlDocument], dict[str, Template]]
) -> dict[str, Template]:
    if own is not None:
        read_text(own / variables, f"a directory of templates has {what}")
    found: dict[str, Template] = {}
    # Ours are inside the installed package, or at the root of a checkout.
    package = Path(__file__).parent / "templates"
    ours = package if package.is_dir() else package.parents[1] / "templates"
    for root in (own or paths.home() / "templates", ours):
        path = root / variables
        document = YamlDocument(str(path), path.read_text(encoding="utf-8") if path.exists() else "")
        described = read(root, document)
        if described and document.issues:
            raise InvalidFileError(str(path), document.issues)
        for name, template in described.items():
            found.setdefault(name, template)
    return found


def _environments(root: Path, document: YamlDocument) -> dict[str, Template]:
    files = {each.name.removesuffix(".yml.j2"): each for each in sorted((root / "environment").glob("*.yml.j2"))}
    about = document.mapping(document.root, "the file", tuple(files)) if files else {}
    found = {}
    for name in (each for each in about if each in files):
        stated = document.mapping(about[name], name, ("description", "variables"))
        variables = _variables(document, stated.get("variables"), f"variables of {name}")
        description = document.string(stated.get("description"), "description") or ""
        found[name] = Template(name, files[name], description, variables)
    for name, file in files.items():
        # Every name in a template without a description is a variable that has to be given.
        found.setdefault(name, Template(name, file, "", tuple(Variable(each, "", None) for each in names_in(file))))
    return found


def _kinds(root: Path, document: YamlDocument) -> dict[str, Template]:
    files = {each.name.partition(".")[0]: each for each in sorted((root / "deploy").glob("*.j2"))}
    about = document.mapping(document.root, "the file", ("kinds", "variables")) if files else {}
    # A variable is described once for all kinds; which of them a kind takes is read from its template.
    variables = {variable.name: variable for variable in _variables(document, about.get("variables"), "variables")}
    described = document.mapping(about.get("kinds"), "kinds")
    found = {}
    # In the order in which people wrote them down, what they did not describe at the end.
    for name in (*(each for each in described if each in files), *(each for each in files if each not in described)):
        stated = document.mapping(described.get(name), name, ("description", "output"))
        description = document.string(stated.get("description"), "description") or ""
        output = document.string(stated.get("output"), "output") or files[name].name.removesuffix(".j2")
        used = tuple(variables.get(each, Variable(each, "", None)) for each in names_in(files[name]))
        found[name] = Template(name, files[name], description, used, output)
    return found


def _variables(document: YamlDocument, value: Value | None, what: str) -> tuple[Variable, ...]:
    variables = []
    for name, about in document.mapping(value, what).items():
        document.mapping(about, name, ("help", "default", "choices", "pattern"))
        fields = dict(document.scalars(about, name))
        choices, pattern = tuple(fields.get("choices", "").split()), fields.get("pattern", "")
        variables.append(Variable(name, fields.get("help", ""), fields.get("default"), choices, pattern))
    return tuple(variables)


def render(template: Template, values: Mapping[str, str]) -> str:
    """Render a template. Raises TemplateError if a variable is missing or unknown, or at the line of an error."""
    known = {each.name: each for each in template.variables}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        message = f"template {template.name} has no variable {', '.join(unknown)}"
        raise TemplateError(message, f"it has {', '.join(known)}")
    missing = [each for each in template.variables if each.default is None and each.name not in values]
    if missing:
        wanted = "; ".join(f"{each.name} ({each.help})" for each in missing)
        raise TemplateError(f"template {template.name} needs {wanted}", f"give it with --set {missing[0].name}=VALUE")
    for name, value in values.items():
        variable, what = known[name], f"{name} of template {template.name}"
        if variable.choices and value not in variable.choices:
            raise TemplateError(f"{what}: expected one of {', '.join(variable.choices)}, found {value!r}")
        if variable.pattern and not re.fullmatch(variable.pattern, value):
            message = f"{what}: expected a text that matches {variable.pattern}, found {value!r}"
            raise TemplateError(message, f"it is {variable.help}")
    defaults = {each.name: each.default for each in template.variables if each.default is not None}
    # Slow to import, and most commands render nothing.
    from jinja2 import TemplateSyntaxError

    path = template.path
    try:
        return _environment(path.parent).get_template(path.name).render({**defaults, **values})
    except TemplateSyntaxError as error:
        raise TemplateError(f"{error.filename}:{error.lineno}: {error.message}") from error
    except MissingFileError:
        raise
    except RecursionError as error:
        raise TemplateError(f"{path}: it includes itself without end") from error
    except Exception as error:  # an expression may do what any Python does, such as divide by 0
        # Jinja2 rewrites the traceback so that a frame inside a template has the template's own file and line number.
        frames = [(each.f_code.co_filename, at) for each, at in traceback.walk_tb(error.__traceback__)]
        inside = [each for each in frames if each[0].startswith(f"{path.parent}{os.sep}")]
        file, line = inside[-1] if inside else (path, 0)
        raise TemplateError(f"{file}:{line}: {error}") from error


def names_in(path: Path, above: tuple[Path, ...] = ()) -> list[str]:
    """The variables that a template, or a part of those `above`, and its own parts use, in alphabetical order; none of
    what is malformed. What a template gives its part where it stands, as a loop does, does not count."""
    from jinja2 import TemplateSyntaxError, meta, nodes

    above = (*above, path)
    try:
        tree = _environment(path.parent).parse(read_text(path, ""))
        for each in list(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
            named = meta.find_referenced_templates(nodes.Template([each]))
            parts = [_part(above[0].parent, name) for name in named if name]
            used = {name for part in parts if part and part not in above for name in names_in(part, above)}
            names: list[nodes.Expr] = [nodes.Name(name, "load", lineno=each.lineno) for name in sorted(used)]
            # Jinja2 looks for names in the place of the part. One that is extended is rendered last, and has all.
            if isinstance(each, nodes.Extends):
                tree.body.append(nodes.Output(names, lineno=each.lineno))
            elif isinstance(each, (nodes.Include, nodes.Import, nodes.FromImport)):
                each.template = nodes.List([each.template, *names], lineno=each.lineno)
        return sorted(meta.find_undeclared_variables(tree))
    except (TemplateSyntaxError, MissingFileError):
        return []  # rendering it reports what is wrong, and where


def _part(directory: Path, name: str) -> Path | None:
    """The file of a part, where Jinja2's own loader of files looks for it: never outside of the directory."""
    path = directory / name.lstrip("/")
    return path if path.is_file() and ".." not in name.split("/") else None


def _environment(directory: Path) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined, TemplateNotFound

    def load(name: str) -> tuple[str, str, None]:
        path = _part(directory, name)
        if path is None:
            raise TemplateNotFound(name, f"{directory}/{name} not found")
        return read_text(path, "envtool init --list and envtool deploy list show the templates"), str(path), None

    # The output is YAML and systemd units, never HTML, so that escaping would only do harm.
    loader = FunctionLoader(load)
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
