"""The way into `serve` and every way out of it; running the server is gunicorn's part."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from serve.cli import cli
from serve.errors import ServeError, describe

_USAGE, _KNOWN_ERROR, _INTERRUPTED = 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 done, 1 the answer is no, 2 wrong usage, 3 an error we know, or 130 interrupted."""
    try:
        code: int | None = cli.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
        hint = getattr(error, "hint", None) or (f"{context.command_path} --help" if context else None)
        click.echo(describe(ServeError(message[:1].lower() + message[1:], hint)), err=True)
        return _USAGE
    except ServeError as error:
        click.echo(describe(error), err=True)
        return _KNOWN_ERROR
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
