"""`envtool init`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from envtool import console, templates
from envtool.atomic_files import write_atomically
from envtool.cli.options import PATH
from envtool.errors import EnvtoolError, TemplateError
from envtool.spec.other_formats import convert
from envtool.templates import Template
from envtool.yaml_document import read_text


def write_rendered(text: str, output: Path, hint: str, *, force: bool) -> None:
    """Write a rendered file. Raises EnvtoolError if one with another content exists, unless by force."""
    if not force and output.is_file() and output.read_text(encoding="utf-8") not in ("", text):
        raise EnvtoolError(f"{output} already exists with other content", hint)
    write_atomically(output, text)


def compare_rendered(expected: str, actual: str, output: Path, template: str) -> int:
    """Say whether a file equals its template, with the differences; the exit code."""
    if actual == expected:
        console.say(f"{output} equals its template {template}")
        return 0
    lines = expected.splitlines(), actual.splitlines()
    console.answer("\n".join(difflib.unified_diff(*lines, f"template {template}", str(output), lineterm="")))
    return 1


_HEADER = "# Made by: envtool init "
_LICENCE = (
    "the channel defaults is Anaconda's: organisations of 200 or more need a paid licence to use it",
    "conda-forge has the same packages and needs none",
)


@click.command("init")
@click.argument("template", required=False)
@click.option("-s", "--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Set a variable of the template. Repeatable.")  # fmt: skip
@click.option("--from", "found", type=click.Path(path_type=Path, exists=True), metavar="PATH",
              help="A requirements.txt, pyproject.toml, pixi.toml, conda's export, or a directory.")  # fmt: skip
@click.option("-o", "--output", type=PATH, default=Path("environment.yml"), show_default=True, help="Where to write.")
@click.option("--templates", "own", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="A directory of templates of your own.  [default: templates/ under ~/.envtool]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite a file with other content.")
@click.option("--list", "is_list", is_flag=True, help="Show the templates and what they take.")
@click.option("--check", "is_check", is_flag=True,
              help="Only say whether OUTPUT equals its template; exit code 1 when not.")  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context, template: str | None, settings: tuple[str, ...], output: Path, own: Path | None, force: bool,
    is_list: bool, is_check: bool, found: Path | None,
) -> None:  # fmt: skip
    """Write environment.yml from a template, or from what a project has.

    The first line of the file shows how it was made, so that --check can make it again and compare.

    \b
    Examples:
      envtool init --list
      envtool init pytorch --set cuda=12.1
      envtool init embedded --set channel=file:///srv/channel
      envtool init --from requirements.txt
      envtool init --from .                      from what its Python files import
      envtool init --check
    """
    known = templates.templates(own)
    values = dict(pair(setting) for setting in settings)
    if is_list:
        heads = {f"{each.name}: {each.description}".rstrip(": "): each for each in known.values()}
        console.answer("\n\n".join("\n".join([head, *describe_variables(each)]) for head, each in heads.items()))
    elif found is not None:
        text, notes = convert(found, found.absolute().name if found.is_dir() else found.absolute().parent.name)
        write_rendered(text, output, "--force writes over it, -o names another", force=force)
        for note in notes:
            console.warn(note)
        console.say(f"wrote {output} from {found}; read it, then: envtool lock -f {output}")
    elif is_check:
        ctx.exit(_check(known, output))
    else:
        text = _text(known, template, values)
        write_rendered(text, output, "--force writes over it, -o names another", force=force)
        if "\n  - defaults\n" in text:
            console.warn(*_LICENCE)
        console.say(f"wrote {output}; next: envtool lock -f {output}")


def _text(known: Mapping[str, Template], template: str | None, values: Mapping[str, str]) -> str:
    if template is None or template not in known:
        raise TemplateError(
            f"no template {template!r}" if template else "no template is named", f"there are: {', '.join(known)}"
        )
    text = templates.render(known[template], values)
    words = [template, *(f"--set {shlex.quote(f'{name}={value}')}" for name, value in sorted(values.items()))]
    return f"{_HEADER}{' '.join(words)}\n{text}"


def _check(known: Mapping[str, Template], output: Path) -> int:
    actual = read_text(output, "envtool init makes it; -o names another")
    header = actual.partition("\n")[0]
    if not header.startswith(_HEADER):
        message = f"{output}:1: expected {_HEADER.strip()!r} and a template, found {header!r}"
        raise EnvtoolError(message, "only a file that envtool init wrote can be compared with its template")
    template, *words = shlex.split(header[len(_HEADER) :])
    expected = _text(known, template, dict(pair(word) for word in words if word != "--set"))
    return compare_rendered(expected, actual, output, template)


def describe_variables(template: Template) -> list[str]:
    """A line for each variable of a template: what it is, what it may be, what it is by default."""
    lines = []
    width = max((len(each.name) for each in template.variables), default=0)
    for variable in template.variables:
        default = "required" if variable.default is None else f"default: {variable.default or 'none'}"
        choices = f"one of {', '.join(variable.choices)}; " if variable.choices else ""
        lines.append(f"  {variable.name:{max(width, 10)}} {variable.help} ({choices}{default})")
    return lines


def pair(setting: str) -> tuple[str, str]:
    """The name and the value of a `NAME=VALUE` from the command line."""
    name, equals, value = setting.partition("=")
    if not equals:
        raise click.BadParameter(f"{setting!r} is not NAME=VALUE", param_hint="--set")
    return name, value
