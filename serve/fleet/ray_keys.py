"""The one door to Ray's actors: the keys of a fleet in an actor on the head node, which Ray starts anew where it dies.

It decides nothing of a swap; the hosts do (`serve.fleet.state`), as they do where the keys are etcd's. What it knows
beyond etcd is who is dead, since Ray tells: a host of which no replica lives is taken out of the roster."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.errors import FleetError, ServeError
from serve.fleet.keys import Change, Changes, Snapshot, Transaction
from serve.fleet.memory_keys import REPLICAS, MemoryKeys, Register, find_gone
from serve.fleet.messages import ALL, View

_LEAST = (2, 51)
HINT = "pip install 'envserve[ray]' on every node of the cluster"
try:
    import ray
except ImportError as error:
    raise FleetError(f"ray cannot be imported: {error}", HINT) from error
if tuple(map(int, ray.__version__.split(".")[:2])) < _LEAST:
    raise FleetError(f"expected ray {'.'.join(map(str, _LEAST))} or newer, found {ray.__version__}", HINT)

NAMESPACE = "envserve"
_TIMEOUT_S, _WATCH_S, _LOOK_S, _LOCK_S = 2.0, 10.0, 0.5, 0.1
_HEAD = "node:__internal_head__"


class Keeper:
    """The actor. Its lock keeps out an earlier process of it that hangs, and has not heard that it was replaced."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        while durable_files.claim(self._directory / "lock") is None:
            time.sleep(_LOCK_S)
        self._places: dict[str, MemoryKeys] = {}
        self._changed: asyncio.Event | None = None
        self._looking: asyncio.Task[None] | None = None

    async def call(self, place: str, name: str, *arguments: Any) -> Any:
        """Carry out a call on the keys of a model."""
        keys = self._open(place)
        before = keys.revision
        try:
            return getattr(keys, name)(*arguments)
        finally:
            if keys.revision != before:
                self._wake()

    async def watch(self, place: str, first: str, last: str, after: int) -> list[Change] | None:
        """Return what has changed after a revision, as soon as anything has, or after a while; `None`: not known."""
        self._looking = self._looking or asyncio.ensure_future(self._look())
        until_s = time.monotonic() + _WATCH_S
        while True:
            found = self._open(place).find_changes(first, last, after)
            if found is None or found or time.monotonic() > until_s:
                return found
            self._changed = self._changed or asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), until_s - time.monotonic())

    def _open(self, place: str) -> MemoryKeys:
        if place not in self._places:
            register = Register(self._directory / f"{place}.sqlite")
            self._places[place] = MemoryKeys(lambda: time.clock_gettime(time.CLOCK_BOOTTIME), register)
        return self._places[place]

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _look(self) -> None:
        """End leases, and take out the dead."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for keys in list(self._places.values()):
                view = View.parse(keys.read(*ALL))
                if all(map(view.beat_of, view.roster)):
                    continue
                try:
                    named = await asyncio.get_running_loop().run_in_executor(None, ray.util.list_named_actors, True)
                    known = [key[len(REPLICAS) :] for key in keys.read(REPLICAS).items]
                    for gone in find_gone(view, known, {actor["name"] for actor in named}):
                        keys.commit(gone)
                except (ray.exceptions.RayError, ServeError, RuntimeError):
                    continue  # the next look asks again
            self._wake()


class RayKeys:
    """The shared keys; every call may raise `FleetError`, and may have been carried out nevertheless. The `directory`
    is of the actor's register, on whatever is the head node, and names the actor; no two models share a `place`."""

    def __init__(self, directory: str, place: str) -> None:
        self._directory, self._place, self._actor = directory, place, None
        self._changes = Changes()
        self.take, self.wait = self._changes.take, self._changes.wait

    def read(self, *places: str) -> Snapshot:
        """Return keys, and what is below prefixes, which end with a slash; as new as any answered change."""
        found: Snapshot = self._call("read", *places)
        return found

    def commit(self, transaction: Transaction) -> int:
        """Carry out a transaction, and return its revision; 0: not all was as it had to be. Raises `LeaseLostError`."""
        return int(self._call("commit", transaction))

    def grant(self, ttl_s: float) -> tuple[int, float]:
        """Begin a lease; return its number and its seconds."""
        found: tuple[int, float] = self._call("grant", ttl_s)
        return found

    def keep_alive(self, lease: int) -> int:
        """Renew a lease, and return the revision that the keys are at; 0: there was no lease."""
        return int(self._call("keep_alive", lease))

    def watch(self, first: str, last: str, after: int) -> None:
        """Begin to take down what changes after a revision from one prefix to another, instead of what was watched."""
        self._changes.begin(self._follow, first, last, after)

    def _follow(self, number: int, first: str, last: str, after: int) -> None:
        found: list[Change] | None = []
        try:
            while found is not None and self._changes.note(number, found):
                found = self._ask("watch", _WATCH_S + _TIMEOUT_S, first, last, after)
                after = max((after, *(one.revision for one in found or ())))
        except ServeError:
            time.sleep(_LOOK_S)
        self._changes.end(number)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._ask("call", _TIMEOUT_S, name, *arguments)

    def _ask(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        try:
            self._actor = self._actor or _find(self._directory)
            return ray.get(getattr(self._actor, method).remote(self._place, *arguments), timeout=timeout_s)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ServeError):
                raise error.cause from None
            raise FleetError(f"the keeper of the fleet: {error.cause!r}") from error
        except (ray.exceptions.RayError, ValueError, RuntimeError, ConnectionError) as error:
            self._actor = None  # it may be another one by now
            reason = str(error).partition("\n")[0]
            raise FleetError(f"the keeper of the fleet does not answer: {reason}", "is the head node up?") from error


def _find(directory: str) -> Any:
    """Return the actor; it is made where there is none."""
    if not ray.is_initialized():
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    actor = ray.remote(Keeper).options(
        name=directory,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
        num_cpus=0,
        resources={_HEAD: 0.001},
    )
    return actor.remote(directory)
