"""The command line: `python -m serve`.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error we know, 130 interrupted. Running the server is
gunicorn's part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from serve.commands import Answer, add_commands
from serve.errors import ServeError, describe
from serve.publish import publish
from serve.settings import CONFIG_VARIABLE, DEFAULT_FILE, FIELDS

_KNOWN_ERROR = 3
_INTERRUPTED = 130

_ABOUT = f"""\
Hot-swap PyTorch models under Flask and gunicorn.

  1. write {DEFAULT_FILE} (python -m serve settings lists its keys):
       model = "mymodule:MyModel"
       checkpoints = "checkpoints"
  2. start the server:
       gunicorn -c python:serve.gunicorn_conf serve.wsgi:app
  3. after each training, publish the weights; the server swaps them in:
       python -m serve publish weights.safetensors --to checkpoints
  4. look, and go back if you must:
       python -m serve status
       python -m serve rollback
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    options = _build_parser().parse_args(arguments)
    try:
        answer: Answer | str = options.run(options)
    except ServeError as error:
        sys.stderr.write(describe(error) + "\n")
        return _KNOWN_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    text, code = answer if isinstance(answer, Answer) else Answer(answer)
    sys.stdout.write(text + "\n" if text else "")
    return code


def _build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m serve", description=_ABOUT, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_publish(commands.add_parser("publish", formatter_class=raw, help="publish a checkpoint, its marker last"))
    add_commands(commands)
    settings = commands.add_parser("settings", help="list every setting, its variable and its default")
    settings.add_argument("--json", action="store_true", help="as JSON")
    settings.set_defaults(run=_list_settings)
    return parser


def _add_publish(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Copy FILE into DIR, sync it, rename it into place, and write its marker last.

A server that watches DIR loads it, proves it by the sha256 in the marker, and swaps it in without a failed request.

  python -m serve publish weights.safetensors --to checkpoints --name model_v2.safetensors --version 2
"""
    parser.add_argument("file", metavar="FILE", type=Path, help="a state dict: safetensors, or what torch.save wrote")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the watched directory")
    parser.add_argument("--name", help="file name of the checkpoint in DIR (default: that of FILE)")
    parser.add_argument("--version", help="name of this content in answers and logs (default: start of its sha256)")
    parser.add_argument("--json", action="store_true", help="print what was published as JSON")
    parser.set_defaults(run=_publish)


def _publish(options: argparse.Namespace) -> str:
    published = publish(options.file, options.to, options.name, options.version)
    if options.json:
        return json.dumps(asdict(published))
    return f"published {published.checkpoint}\n  version {published.version}\n  sha256  {published.sha256}"


def _list_settings(options: argparse.Namespace) -> str:
    if options.json:
        rows = [
            {"key": field.key, "variable": field.variable, "help": field.help, **field.default_as_json()}
            for field in FIELDS
        ]
        return json.dumps(rows)
    lines = [f"in {DEFAULT_FILE}, or in the file that {CONFIG_VARIABLE} names; each also as a variable"]
    for field in FIELDS:
        stated = field.default_as_json()
        default = f"default {json.dumps(stated['default'])}" if stated else "required"
        lines.append(f"{field.key} ({field.variable}; {default})\n    {field.help}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
