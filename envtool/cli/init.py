"""`envtool init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from envtool.render import Template


@click.command("init", short_help="Write environment.yml from a template.")
@click.argument("template", required=False)
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a variable of the template. Repeatable."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("environment.yml"),
    show_default=True,
    help="Where to write.",
)
@click.option("--force", is_flag=True, help="Write over a file that says something else.")
@click.option("--list", "is_list", is_flag=True, help="Show the templates and what they take.")
def command(template: str | None, settings: tuple[str, ...], output: Path, force: bool, is_list: bool) -> None:
    """Write environment.yml from a template.

    \b
    Example:
      envtool init --list
      envtool init embedded --set channel=file:///srv/channel
    """
    from envtool import render, report
    from envtool.errors import EnvtoolError, TemplateError
    from envtool.files import write_atomically

    known = render.templates()
    if is_list:
        report.answer("\n\n".join(_describe(each) for each in known.values()))
        return
    if template not in known:
        raise TemplateError(
            f"no template {template!r}" if template else "no template is named", f"there are: {', '.join(known)}"
        )
    text = render.render(known[template], dict(_pair(each) for each in settings))
    if output.exists() and output.read_text(encoding="utf-8") != text and not force:
        raise EnvtoolError(
            f"{output} is there already and says something else", "--force writes over it, -o names another"
        )
    write_atomically(output, text)
    report.say(f"wrote {output}; next: envtool lock -f {output}")


def _describe(template: Template) -> str:
    lines = [f"{template.name}: {template.description}"]
    for variable in template.variables:
        default = "required" if variable.default is None else f"default: {variable.default or 'none'}"
        lines.append(f"  {variable.name:10} {variable.help} ({default})")
    return "\n".join(lines)


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise click.BadParameter(f"{setting!r} is not NAME=VALUE", param_hint="--set")
    return name, value
