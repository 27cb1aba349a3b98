"""A launcher that confines itself to write to one directory alone, and then becomes a program. Landlock denies
creating, writing, renaming and removing outside of the directory, not reading, the network or a change of modes and
times. Source: the kernel's documentation, "Landlock: unprivileged access control". Usage: python confinement.py
DIRECTORY PROGRAM [ARGUMENT ...]"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, by whatever Python runs envtool: a thread that confines itself would confine envtool.
LAUNCHER = Path(__file__)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION_FLAG, _PATH_BENEATH, _NO_NEW_PRIVS = 1, 1, 38
_WRITE_FILE = 1 << 1
# WRITE_FILE, REMOVE_DIR, REMOVE_FILE and the seven that make something; then REFER and TRUNCATE.
_BY_VERSION = ((1, _WRITE_FILE | 0b1_1111_1111 << 4), (2, 1 << 13), (3, 1 << 14))
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def landlock_version() -> int:
    """The version of Landlock that the kernel has; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def confine(directory: str) -> None:
    """Take from this process, for good, the right to write outside of a directory. Raises OSError if it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    rights = sum(bits for version, bits in _BY_VERSION if version <= landlock_version())
    handled = ctypes.c_uint64(rights)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(handled), 8, 0))
    for path, allowed in ((directory, rights), *((each, _WRITE_FILE) for each in _DEVICES if os.access(each, os.W_OK))):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _PathBeneath(allowed, descriptor)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
        os.close(descriptor)
    _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main(directory: str, argv: Sequence[str]) -> None:
    """Become a program that can write to a directory alone, where the kernel has Landlock."""
    if landlock_version():
        try:
            confine(directory)
        except OSError as error:
            sys.exit(f"Landlock, which this kernel has, cannot be used here: {error.strerror}")
    os.execvp(argv[0], list(argv))  # noqa: S606 - no shell is what is wanted here


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
