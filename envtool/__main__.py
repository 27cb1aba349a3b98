"""The entry point, and the exit codes."""

from __future__ import annotations

import errno
import gc
import os
import sys
import sysconfig
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from envtool.errors import EnvtoolError

_DISK_HINT = "make room or get the right to write there, then run the same command again: it goes on where it stopped"
_HINTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM), _DISK_HINT)
_PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY)
_HINTS.update(dict.fromkeys(_PATH_ERRORS, "is the path right, and does its directory exist?"))
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
DONE, NO, USAGE, KNOWN_ERROR, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130


def main() -> NoReturn:
    """Run the command line and leave through `os._exit`: py-rattler's threads may crash while the interpreter shuts
    down, which would turn a good exit code into a signal."""
    _open_closed_streams()
    # A version needs none of the command line, which takes three times as long to import.
    code = _show_version() if sys.argv[1:] in (["--version"], ["-V"]) else _run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or KNOWN_ERROR  # a full disk or a closed pipe: the answer did not arrive
    os._exit(code)


def _open_closed_streams() -> None:
    # Python has no stream for a descriptor that was closed (`>&-`), and the next file we open would get its number:
    # what a child prints would be written into a package.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, errors="backslashreplace"))


def _show_version() -> int:
    from importlib.metadata import version

    try:
        sys.stdout.write(f"envtool, version {version('envserve')}\n")
    except OSError:  # it is written at once where the stream has no buffer
        return KNOWN_ERROR
    return DONE


def _run() -> int:
    # A command makes few cycles of objects and ends soon. Looking for them as often as Python does by itself takes a
    # tenth of our own part of `envtool lock`.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # Until Python 3.12 whoever asks first fills this table in the sight of other threads, which take it for whole.
    sysconfig.get_config_vars()
    import traceback

    import click

    from envtool import console
    from envtool.cli import cli
    from envtool.errors import EnvtoolError

    try:
        result = cli.main(prog_name="envtool", standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        console.say("interrupted; run the same command again, it goes on where it stopped")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USAGE
    except EnvtoolError as error:
        console.fail(error)
        return KNOWN_ERROR
    except BrokenPipeError:
        return KNOWN_ERROR
    except Exception as error:
        known = _known(error)
        if known is None:
            console.say(traceback.format_exc())
            return BUG
        console.fail(known)
        return KNOWN_ERROR


def _known(error: Exception) -> EnvtoolError | None:
    """What there is to say of an error of the disk, or of a path that a user gave; None of any other."""
    from envtool.errors import EnvtoolError

    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # of Path.resolve, before Python 3.13
        return EnvtoolError(str(error), _HINTS[errno.ELOOP])
    hint = _HINTS.get(error.errno or 0) if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or hint is None or (error.filename is None and hint != _DISK_HINT):
        return None
    return EnvtoolError(f"{error.filename or 'a file'} cannot be used: {error.strerror}", hint)


if __name__ == "__main__":
    main()
