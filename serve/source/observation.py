"""An observation of a checkpoint and its marker, and the decision that follows from it.

Nothing here touches a disk or a clock: `decide` is a function of what was observed and what is known, and returns an
action. `serve.source.local` observes, `serve.swap.reloader` acts."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Union

from serve.checkpoint.manifest import Manifest, parse_marker
from serve.durable_files import Copied
from serve.errors import CheckpointError

MARKER_SUFFIX = ".done"
# Why a checkpoint is passed over in a directory; filled with what is live instead.
OUTRANKED = "its marker is older than that of what was live, or states a lower generation; {} is being served"


@dataclass(frozen=True)
class Identity:
    """What tells one state of a file from another. The mtime alone does not: a clock can be set back."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Observation:
    """One look at a marker and its checkpoint, whose `generation` is the publisher's number, 0 where none is stated."""

    path: Path
    checkpoint: Identity | None
    marker: Identity
    text: bytes
    problem: str | None = None
    generation: int = 0
    # Copies a checkpoint that is no file of this machine, as `durable_files.write_hashed` does.
    copy: Callable[[Path], Copied] | None = field(default=None, repr=False, compare=False)

    @property
    def order(self) -> tuple[int, int, str]:
        """The rank among the checkpoints of a directory: the stated generation, then the newest marker, then the name.
        A stated number outranks the clock, so that a trainer whose clock was set back still publishes something
        newer."""
        return self.generation, self.marker.mtime_ns, self.path.name

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short text that changes whenever anything that was seen changes."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True)
class Known:
    """What the worker knows of an observation when it decides; what ranks below `served_order` is not loaded."""

    served: str | None
    served_order: tuple[int, int, str] | None
    first_seen_s: float
    refusal: str | None = None
    answering: str = "what is live"
    is_withdrawn: bool = False


@dataclass(frozen=True)
class Ignore:
    """Nothing to do with this one, nor, if it is final, with the older ones; if it waits, its publisher has to."""

    reason: str
    is_final: bool = False
    is_waiting: bool = False
    is_served: bool = False


@dataclass(frozen=True)
class Wait:
    """This one may become loadable soon; decide again then."""

    reason: str
    look_again_s: float
    is_final = is_waiting = is_served = False


@dataclass(frozen=True)
class Load:
    """Load this one."""

    observation: Observation
    manifest: Manifest


@dataclass(frozen=True)
class Refuse:
    """This one can never be loaded as it is."""

    observation: Observation
    code: str
    reason: str


Action = Union[Ignore, Wait, Load, Refuse]
SERVED = Ignore("it is being served", is_final=True, is_served=True)


def decide(seen: Observation, known: Known, now_s: float, settle_s: float) -> Action:
    """Decide about one observation; a checkpoint without proof of its content must hold still for `settle_s`."""
    if seen.fingerprint == known.served:
        return SERVED
    if known.is_withdrawn:
        return Ignore(f"passed over: it was rolled back; {known.answering} is being served", is_final=True)
    if known.served_order is not None and seen.order < known.served_order:
        return Ignore(f"passed over: {OUTRANKED.format(known.answering)}", is_final=True)
    if known.refusal is not None:
        return Ignore(f"refused: {known.refusal}")
    if seen.problem is not None:
        return Refuse(seen, "marker", seen.problem)
    if seen.checkpoint is None:
        return Ignore("the marker has no checkpoint beside it", is_waiting=True)
    try:
        manifest = parse_marker(seen.text)
    except CheckpointError as error:
        return Refuse(seen, error.code, error.message + (f" (hint: {error.hint})" if error.hint else ""))
    checkpoint, unsettled_s = seen.checkpoint, settle_s - (now_s - known.first_seen_s)
    is_rewritten = checkpoint.mtime_ns > seen.marker.mtime_ns
    if manifest.sha256 is None and is_rewritten:
        return Ignore("its empty marker is older than the checkpoint", is_waiting=True)
    # A hash proves its bytes at once, unless somebody may just be writing new ones under the old marker.
    if (manifest.sha256 is None or is_rewritten) and unsettled_s > 0:
        return Wait("the checkpoint must hold still", unsettled_s)
    if manifest.size_bytes is not None and manifest.size_bytes != checkpoint.size_bytes:
        return Refuse(seen, "size", f"the size: expected {manifest.size_bytes} bytes, found {checkpoint.size_bytes}")
    return Load(seen, manifest)
