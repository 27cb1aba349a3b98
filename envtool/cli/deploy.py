"""`envtool deploy`: files for other tools, and releases that replace each other under traffic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from envtool import console
from envtool import templates as door
from envtool.cli import releases
from envtool.cli.groups import CommandGroup
from envtool.cli.init import describe_variables, pair
from envtool.cli.options import json_option
from envtool.cli.rendered_files import compare_rendered, write_rendered
from envtool.deploy.templates import DeployTemplate, find_kind, kinds
from envtool.yaml_document import read_text

own_option = click.option("--templates", "own", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="A directory of templates of your own, with a directory deploy/.  [default: templates/ under ~/.envtool]",
)  # fmt: skip


@click.group("deploy", cls=CommandGroup)
def command() -> None:
    """Serve on real machines.

    \b
    Files for other tools:
      envtool deploy list                         what can be made
      envtool deploy explain systemd              what it is, and what it takes
      envtool deploy render systemd --set user=ml

    \b
    Releases on this machine:
      envtool deploy apply /srv/envserve          bring the service to conda-lock.yml
      envtool deploy status /srv/envserve
      envtool deploy rollback /srv/envserve
    """


for _each in (releases.apply, releases.rollback, releases.status):
    command.add_command(_each)


@command.command("list")
@own_option
@json_option
def list_(own: Path | None, as_json: bool) -> None:
    """Show what can be made."""
    known = kinds(own)
    if as_json:
        console.answer_json({name: _kind_dict(each) for name, each in known.items()})
        return
    for name, each in known.items():
        console.answer(f"{name:18} {each.template.description}")


@command.command()
@click.argument("kind")
@own_option
@json_option
def explain(kind: str, own: Path | None, as_json: bool) -> None:
    """Show what KIND is and which variables it takes."""
    found = find_kind(kind, own)
    if as_json:
        console.answer_json(_kind_dict(found))
        return
    console.answer(f"{kind}: {found.template.description}\nusual name: {found.output}")
    for line in describe_variables(found.template):
        console.answer(line)


@command.command()
@click.argument("kind")
@click.option("-s", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a variable. Repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write.  [default: standard output]")
@own_option
@click.option("--force", is_flag=True, help="Overwrite a file with other content.")
@click.option("--check", "is_check", is_flag=True,
              help="Only say whether OUTPUT is what would be written; exit code 1 when not.")  # fmt: skip
@click.pass_context
def render(
    ctx: click.Context, kind: str, settings: tuple[str, ...], output: Path | None, own: Path | None, force: bool,
    is_check: bool,
) -> None:  # fmt: skip
    """Make a file of KIND from its template.

    Every variable has a value that is safe, or has to be given. Nothing that is rendered listens on a public address
    unless it is asked to.

    \b
    Examples:
      envtool deploy render systemd -o /etc/systemd/system/envserve.service
      envtool deploy render nginx --set server_name=models.example.org
      envtool deploy render github --set install='envserve[envtool]' -o .github/workflows/reproducible.yml --check
    """
    if is_check and output is None:
        raise click.UsageError("--check compares a file; name it with -o")
    found = find_kind(kind, own)
    text = door.render(found.template, dict(pair(each) for each in settings))
    if output is None:
        console.answer(text.rstrip("\n"))
    elif is_check:
        actual = read_text(output, "envtool deploy render makes it")
        ctx.exit(compare_rendered(text, actual, output, found.template.name))
    else:
        _write(text, output, force)


def _write(text: str, output: Path, force: bool) -> None:
    write_rendered(text, output, "--check shows how they differ, --force writes over", force=force)
    if text.startswith("#!"):
        output.chmod(0o755)
    console.say(f"wrote {output}")


def _kind_dict(kind: DeployTemplate) -> dict[str, Any]:
    variables = [asdict(each) for each in kind.template.variables]
    return {"description": kind.template.description, "output": kind.output, "variables": variables}
