"""A copy of a file that shares no changes with it: cloned where the file system can (btrfs, XFS), else copied.

Source: ioctl_ficlonerange(2), copy_file_range(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from envtool.atomic_files import create, write_all

_FICLONE = 0x40049409
_STEP_BYTES = 1 << 28
_BUFFER_BYTES = 1 << 20
# What kernels and file systems say when they cannot, or not between these two.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM)


def clone(source: str, target: str, mode: int) -> bool:
    """Make a file with the content of another; a later change of either leaves the other as it is.

    Returns whether they share their blocks until one is changed, so that nothing was copied.
    """
    with contextlib.ExitStack() as stack:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, reading)
        writing = create(target, mode)
        stack.callback(os.close, writing)
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
            return True
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        _copy(reading, writing)
        return False


def _copy(reading: int, writing: int) -> None:
    if hasattr(os, "copy_file_range"):  # not in every build of Python 3.9
        try:
            while os.copy_file_range(reading, writing, _STEP_BYTES):
                pass
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        # Some file systems end early without an error; whatever is left is copied as everywhere.
    while content := os.read(reading, _BUFFER_BYTES):
        write_all(writing, content)
