"""Templates to text. The one door to Jinja2.

A template stands in `templates/` (of a checkout, or inside the installed package), in a directory for each kind, and is
described with its variables in `templates/variables.yml`. Rendering is strict: what is not defined is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.document import Document, read_text
from envtool.errors import InvalidFileError, TemplateError

if TYPE_CHECKING:
    from jinja2 import Environment

_SUFFIX = ".yml.j2"


@dataclass(frozen=True)
class Variable:
    """A variable of a template.

    Args:
        name: Its name.
        help: What it is, for people.
        default: Its value when none is given; None when one has to be given.
    """

    name: str
    help: str
    default: str | None


@dataclass(frozen=True)
class Template:
    """A template of an environment specification.

    Args:
        name: Its name, which is its file name without `.yml.j2`.
        path: The file.
        description: What it makes, for people.
        variables: What it takes.
    """

    name: str
    path: Path
    description: str
    variables: tuple[Variable, ...]


def templates() -> dict[str, Template]:
    """The templates of environment specifications, by name.

    Raises:
        InvalidFileError: variables.yml is malformed.
    """
    root = template_root()
    path = root / "variables.yml"
    document = Document(str(path), read_text(path, "install envserve again; its templates are not there"))
    found = {}
    for name, entry in document.mapping(document.root, "the file").items():
        about = document.mapping(entry, name, ("description", "variables"))
        variables = []
        for variable, value in document.mapping(about.get("variables"), f"variables of {name}").items():
            fields = dict(document.scalars(value, variable))
            variables.append(Variable(variable, fields.get("help", ""), fields.get("default")))
        description = document.string(about.get("description"), "description") or ""
        found[name] = Template(name, root / "environment" / f"{name}{_SUFFIX}", description, tuple(variables))
    if document.issues:
        raise InvalidFileError(str(path), document.issues)
    return found


def template_root() -> Path:
    """Where the templates are: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parent / "templates"
    return package if package.is_dir() else Path(__file__).parent.parent / "templates"


def render(template: Template, values: Mapping[str, str]) -> str:
    """Render a template.

    Args:
        template: The template.
        values: A value for each variable that has no default, and for any other.

    Raises:
        TemplateError: A variable is missing or unknown, or the template has an error, with its line.
    """
    known = {each.name: each for each in template.variables}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise TemplateError(
            f"template {template.name} has no variable {', '.join(unknown)}", f"it has {', '.join(known)}"
        )
    missing = [each for each in template.variables if each.default is None and each.name not in values]
    if missing:
        wanted = "; ".join(f"{each.name} ({each.help})" for each in missing)
        raise TemplateError(f"template {template.name} needs {wanted}", f"give it with --set {missing[0].name}=VALUE")
    defaults = {each.name: each.default for each in template.variables if each.default is not None}
    return _render_file(template.path, {**defaults, **values})


def _render_file(path: Path, values: Mapping[str, str]) -> str:
    from jinja2 import TemplateError as JinjaError
    from jinja2 import TemplateSyntaxError

    source = read_text(path, "envtool init --list shows the templates")
    try:
        return _environment().from_string(source).render(values)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{path}:{error.lineno}: {error.message}") from error
    except JinjaError as error:
        raise TemplateError(f"{path}:{_line(error)}: {error.message}") from error


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    # The output is YAML and systemd units, never HTML, so that escaping would only do harm.
    return Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701


def _line(error: Exception) -> int:
    # Jinja2 rewrites the traceback so that its last frame inside the template has the template's own line number.
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
