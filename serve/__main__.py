"""The command line: `python -m serve`.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error we know, 130 interrupted. Running the server is
gunicorn's part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from serve.cli.operator_commands import Output, add_commands
from serve.cli.publish_commands import add_publish_commands
from serve.errors import ServeError, describe
from serve.settings.fields import FIELDS
from serve.settings.settings import CONFIG_VARIABLE, DEFAULT_FILE

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
        answer: Output | str = options.run(options)
    except ServeError as error:
        sys.stderr.write(describe(error) + "\n")
        return _KNOWN_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    text, code = answer if isinstance(answer, Output) else Output(answer)
    sys.stdout.write(text + "\n" if text else "")
    return code


def _build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m serve", description=_ABOUT, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_publish_commands(commands)
    add_commands(commands)
    settings = commands.add_parser("settings", help="list every setting, its variable and its default")
    settings.add_argument("--json", action="store_true", help="as JSON")
    settings.set_defaults(run=_list_settings)
    return parser


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
