"""The door to watchdog: file events that wake the reloader before its timer does.

Events are never trusted to come: an emitter can go blind when a directory is replaced, inotify has limits, and network
file systems do not report what other machines write (watchdog#504, #409), so that there only the timer counts. The
observer is supervised and rebuilt, and whoever waits here is woken by the timer in any case."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Callable

from watchdog import events
from watchdog.observers import Observer

from serve.source.observation import MARKER_SUFFIX

POLL, INOTIFY = "poll", "inotify"
# Reading a marker makes events too (opened, closed_no_write); waking for those would never end, and merely being told
# of them costs a worker three threads' turns each time that any of them reads one.
_WRITING_EVENTS = [events.FileCreatedEvent, events.FileModifiedEvent, events.FileMovedEvent, events.FileClosedEvent]
_SHORTEST_PAUSE_S = 0.02  # a burst of events is one look
_ASK_S = 0.04
_REBUILD_PAUSE_S = 5.0
# What the kernel says when a user has too many inotify instances, and too many watches (inotify_init1(2)).
_LIMITS = {errno.EMFILE: "fs.inotify.max_user_instances", errno.ENOSPC: "fs.inotify.max_user_watches"}

_Watched = tuple[Path, int, int]


class FileEvents(events.FileSystemEventHandler):
    """A wait that file events cut short: with `auto` where they can be trusted, with `inotify` wherever there are."""

    def __init__(self, watch: str, report: Callable[[str], None]) -> None:
        self._watch, self._report, self._woken = watch, report, threading.Event()
        self._observer: Any = None
        self._watched: _Watched | None = None
        self._polled: _Watched | None = None
        self._rebuild_at_s = 0.0
        self._last_report: str | None = None

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Wake the waiting thread when a marker was written."""
        paths = (os.fsdecode(event.src_path or ""), os.fsdecode(event.dest_path or ""))
        if any(path.endswith(MARKER_SUFFIX) for path in paths):
            self._woken.set()

    def wake(self) -> None:
        """Wake the waiting thread now."""
        self._woken.set()

    def wait(self, timeout_s: float, is_wanted: Callable[[], bool] = lambda: False) -> bool:
        """Wait for an event or until `is_wanted`, asked 25 times a second; `False` when the time was up."""
        until_s = time.monotonic() + timeout_s
        while not is_wanted():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            if self._woken.wait(min(left_s, _ASK_S)):
                time.sleep(_SHORTEST_PAUSE_S)
                self._woken.clear()
                return True
        return True

    def supervise(self, directory: Path) -> None:
        """See to it that an observer is alive and watches the directory that has this name now."""
        if self._watch == POLL:
            return
        try:
            seen = directory.stat()
        except OSError:
            self.close()
            return
        wanted = (directory, seen.st_dev, seen.st_ino)
        threads = (self._observer, *self._observer.emitters) if self._observer is not None else ()
        is_alive = bool(threads) and all(thread.is_alive() for thread in threads)
        is_right = wanted == self._polled or (is_alive and wanted == self._watched)
        if is_right or time.monotonic() < self._rebuild_at_s:
            return
        self.close()
        fstype = type_of(directory)
        if self._watch != INOTIFY and is_remote(fstype):
            self._polled = wanted
            self._tell(f"the timer alone: {directory} is on {fstype}, where other machines' writes make no file events")
        else:
            self._build(wanted)

    def close(self) -> None:
        """Stop watching."""
        observer, self._observer, self._watched, self._polled = self._observer, None, None, None
        if observer is not None:
            observer.stop()
            observer.join(timeout=1)

    def _build(self, wanted: _Watched) -> None:
        try:
            observer = Observer()  # watchdog 7 opens inotify here, watchdog 6 when it starts
            observer.schedule(self, str(wanted[0]), event_filter=_WRITING_EVENTS)
            observer.start()
        except Exception as error:  # watchdog raises OSError, and other types, according to its version
            self._rebuild_at_s = time.monotonic() + _REBUILD_PAUSE_S
            limit = _LIMITS.get(getattr(error, "errno", None) or 0)
            cause = f"the limit {limit} is reached" if limit else str(error)
            self._tell(f"no file events, the timer alone: {cause}")
            return
        self._observer, self._watched = observer, wanted
        self._woken.set()  # what happened before the observer was there made no event
        self._tell("file events")

    def _tell(self, text: str) -> None:
        if text != self._last_report:
            self._last_report = text
            self._report(text)


_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs"))
_REMOTE |= {"beegfs", "gpfs", "orangefs", "vboxsf", "prl_fs"}


def find_type(mounts: str, path: str) -> str | None:
    """Find the type of a path's file system, such as `ext4`, in the text of `/proc/self/mountinfo`; or `None`."""
    best, found = -1, None
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5 or not after.split():
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[4])
        is_inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later line covers an earlier one with the same mount point.
        if is_inside and len(point) >= best:
            best, found = len(point), after.split()[0]
    return found


def is_remote(fstype: str | None) -> bool:
    """Whether other machines may write to such a file system."""
    return fstype is not None and (fstype in _REMOTE or fstype.startswith("fuse"))


def type_of(directory: Path) -> str | None:
    """Return the type of the file system that a directory is on, or `None` where it is unknown."""
    try:
        return find_type(_MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"), str(directory.resolve()))
    except (OSError, RuntimeError):
        return None
