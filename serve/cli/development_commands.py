"""The commands of the first minutes: `new`, `check`, `run` and `import`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

import click

from serve.cli.options import PATH, Command, answer
from serve.development import check as checking
from serve.development.project import TASKS, create_project
from serve.development.target import Target, parse_arguments, parse_example

_MARKS = {checking.OK: "ok", checking.NOTE: "--", checking.PROBLEM: "!!"}


def _reading(parse: Callable[[Any], object]) -> Callable[[click.Context, click.Parameter, Any], object]:
    def read(context: click.Context, option: click.Parameter, stated: Any) -> object:
        try:
            return parse(stated)
        except ValueError as error:
            raise click.BadParameter(str(error), context, option) from error

    return read


def _on_a_class(command: Command) -> Command:
    """Add what names a model class."""
    add, read, argument = click.option, _reading(parse_arguments), "Keyword argument of the class."
    command = add("--arg", "arguments", multiple=True, callback=read, metavar="NAME=VALUE", help=argument)(command)
    example = 'Inputs of a request, @FILE, or their form: "float32[1, 16]".'
    command = add("--example", callback=_reading(parse_example), metavar="JSON", help=example)(command)
    weights = "Weights; the class's initial ones by default."
    command = add("--weights", type=PATH, metavar="FILE", help=weights)(command)
    return click.argument("model", metavar="[MODEL]", required=False)(command)


@click.command()
@click.argument("directory", metavar="NAME", type=PATH)
@click.option("--task", type=click.Choice(TASKS), default=TASKS[0], help="What the model does (default tabular).")
def new(directory: Path, task: str) -> None:
    """Start a project: a model class, its training, settings, environment, test and CI, in the directory NAME.

    \b
      python -m serve new churn
      python -m serve new shapes --task image
    """
    made = create_project(directory, task)
    click.echo(f"made {made}; next: cd {made} && serve run")


@click.command()
@_on_a_class
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(model: str | None, weights: Path | None, example: object, arguments: dict[str, object], as_json: bool) -> int:
    """Find out what would go wrong with a model class, before any server runs.

    MODEL is FILE.py:Class or module:Class; without one, the model of serve.toml. Its example, shapes, weights, batches,
    state, time and memory are tried out as a server does before a swap.

    \b
      python -m serve check model.py:Net --weights weights.pt
      python -m serve check mypackage.models:Net --arg hidden=64 --example "float32[1, 16]"
    """
    found = checking.check(Target(model, arguments, example), weights)
    lines = []
    for finding in found:
        lines.append(f"{_MARKS[finding.level]}  {finding.about:8} {finding.text}")
        lines += [f"    hint: {finding.hint}"] if finding.hint else []
    answer(as_json, [asdict(finding) for finding in found], "\n".join(lines))
    return int(any(finding.level == checking.PROBLEM for finding in found))


@click.command()
@_on_a_class
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Address to listen on.")
def run(model: str | None, weights: Path | None, example: object, arguments: dict[str, object], bind: str) -> int:
    """Serve a model class while it is being written.

    MODEL is FILE.py:Class or module:Class; without one, the model of serve.toml. What the class takes is guessed from
    its layers where it has no example. When FILE of --weights is overwritten, the new weights are swapped in; when the
    code changes, a new worker takes over.

    \b
      python -m serve run model.py:Net --weights weights.pt
      python -m serve run model.py:Net --example "[[0.1, 0.2, 0.3, 0.4]]" --bind 127.0.0.1:9000
    """
    from serve.development.dev_server import DevServer

    return DevServer(Target(model, arguments, example), weights, bind, click.echo).run()


@click.command("import")
@click.argument("server", type=click.Choice(["torchserve"]))
@click.argument("archive", metavar="FILE.mar", type=PATH)
@click.option("--config", type=PATH, metavar="FILE", help="Its config.properties.")
@click.option("-o", "--output", "directory", type=PATH, metavar="DIR", help="The project; named as the archive is.")
def import_(server: str, archive: Path, config: Path | None, directory: Path | None) -> None:
    """Carry a model over from another server: a project with its class, its settings and its weights.

    \b
      python -m serve import torchserve resnet.mar --config config.properties
    """
    from serve.development.project import import_archive

    done = import_archive(archive, directory or Path(archive.stem), config)
    click.echo(f"made {done.directory}, published {done.checkpoint}")
    for note in done.notes:
        click.echo(f"  {note}")
    click.echo(f"next: cd {done.directory} && serve check --weights checkpoints/{done.checkpoint.name}")
