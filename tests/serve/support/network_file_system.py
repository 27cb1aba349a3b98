"""A file system that other machines write to and whose server fails as it is told: a FUSE mount of a directory.

Run as a program it is the file system: `network_file_system.py SOURCE MOUNT_POINT CONTROL`. CONTROL is a file that
holds nothing, or a word: `ESTALE`, `EIO`, … is raised by every read of a checkpoint, and `hang` holds every call of the
mount until the word is gone. The kernel caches nothing, so that each look asks the server.
"""

from __future__ import annotations

import ctypes.util
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support import debian

ROOT = Path(__file__).resolve().parents[3]
HANG = "hang"


def library(scratch: Path) -> str | None:
    """The path of libfuse: the system's, or Debian's unpacked into `scratch`."""
    found = ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")
    if found is not None:
        return found
    unpacked = debian.unpack(scratch / "libfuse3", "libfuse3-3")
    return next((str(path) for path in unpacked.rglob("libfuse3.so.*")), None)


class NetworkFileSystem:
    """The mount, seen from the test.

    Args:
        source: the directory on the server, where "other machines" write.
        point: where it is mounted here.
        libfuse: see `library`.
    """

    def __init__(self, source: Path, point: Path, libfuse: str) -> None:
        self.source, self.point, self._libfuse = source, point, libfuse
        self._control = point.with_name(point.name + ".control")
        self.mount()

    def mount(self) -> None:
        """Mount it, and wait until it answers."""
        self.tell("")
        self.point.mkdir(exist_ok=True)
        command = [sys.executable, __file__, str(self.source), str(self.point), str(self._control)]
        environ = {**os.environ, "FUSE_LIBRARY_PATH": self._libfuse, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, env=environ)
        until = time.monotonic() + 20
        while not self.point.is_mount():
            if self._process.poll() is not None or time.monotonic() > until:
                raise OSError(f"the file system did not start: {self._process.poll()}")
            time.sleep(0.02)

    def tell(self, word: str) -> None:
        """Let it fail in this way, or work again."""
        self._control.write_text(word)

    def kill(self) -> None:
        """End its server at once; every call says ENOTCONN then, as after a network that was cut."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def unmount(self) -> None:
        """Take the mount away, dead or alive."""
        self.tell("")
        subprocess.run(["umount", "--lazy", str(self.point)], check=False)
        self._process.kill()
        self._process.wait()


def serve(source: Path, point: Path, control: Path) -> None:
    """Be the file system, in the foreground, until it is unmounted."""
    import mfusepy

    class Mirror(mfusepy.Operations):
        use_ns = True

        def _path(self, path: str) -> Path:
            while control.read_text() == HANG:
                time.sleep(0.02)
            return source / path.lstrip("/")

        def getattr(self, path, fh=None):
            try:
                seen = self._path(path).stat()
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from None
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")
            times = {f"st_{kind}time": getattr(seen, f"st_{kind}time_ns") for kind in "amc"}
            return {**{name: getattr(seen, name) for name in names}, **times}

        def readdir(self, path, fh):
            return [".", "..", *os.listdir(self._path(path))]  # noqa: PTH208 - libfuse wants names

        def read(self, path, size, offset, fh):
            content = self._path(path).read_bytes()
            word = control.read_text()
            if word and not path.endswith(".done"):
                raise mfusepy.FuseOSError(getattr(errno, word))
            return content[offset : offset + size]

    mfusepy.FUSE(
        Mirror(), str(point), foreground=True, attr_timeout=0, entry_timeout=0, direct_io=True, fsname="simulator"
    )


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:]))
