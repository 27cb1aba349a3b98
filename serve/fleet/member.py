"""The host's part in a fleet: look, decide, act, say, over and over.

It looks at what a watch keeps up to date, and reads where that may have missed something: where the watch was cut off,
or overtaken, or knows nothing of a revision that the renewal of the lease came back with, and before each commit.

`Member.turn` asks for what it wants of the shared keys, and is given it: a generator, so that the tests can have
anything happen between two of its steps, and `Link` is all that touches a network."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import threading
import time
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from serve import durable_files
from serve.errors import FleetError
from serve.fleet.keys import Item, LeaseLostError, Snapshot, Transaction, follow
from serve.fleet.messages import ALL, AWAY, DRIVER, ENTRIES, HOSTS, NOW, ROSTER, Member, View, read_entries
from serve.fleet.state import COMMIT, SHORTER, Driver, HostAction, Local, join, leave, respond, say
from serve.store.quarantine import explain
from serve.swap.host_coordinator import FLEET_LOCK

if TYPE_CHECKING:
    from serve.fleet.carriers import Keys
    from serve.fleet.fleet_committer import Workers
    from serve.fleet.gate import Gate

# How long a refusal keeps a checkpoint from being proposed again.
RETRY_S = 15.0
_KEEP_ALIVES = 4
_OPEN_S, _IDLE_S, _AWAY_S = 0.05, 0.5, 0.2
# How often the workers are looked at meanwhile.
_LOOKS = 10
Ask = Generator[tuple[str, tuple[Any, ...]], Any, Any]


class Setup(NamedTuple):
    """Who a member is, how it tells of events, and the clock that it goes by."""

    host: str
    lease_s: float
    emit: Callable[..., None]
    now_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)


class FleetMember:
    """One host in the fleet of one model; `describe` returns what it is, by its present incarnation."""

    def __init__(
        self, setup: Setup, gate: Gate, workers: Workers, driver: Driver, describe: Callable[[], Member]
    ) -> None:
        self._setup, self._gate, self._workers, self._driver = setup, gate, workers, driver
        self._describe = describe
        self._renew_at_s = 0.0
        self._view: View | None = None
        self._copy: Snapshot | None = None
        # The last read, what it was of, and the newest revision that was heard of.
        self._read_at, self._is_wide, self._heard = 0, True, 0
        self._local: Local | None = None
        self._told, self._stated = ("", ""), ("", 0.0)
        self._is_stopping = threading.Event()

    def _is_stale(self) -> bool:
        return self._view is not None and self._workers.look(self._view) != self._local

    def turn(self) -> Ask:
        """Do what there is to do now, and return after how many seconds to look again, should nothing change."""
        me, host = self._describe(), self._setup.host
        self._view = view = yield from self._look(me)
        self._local = self._workers.look(view)
        if view.proposal is None and self._local.generation >= view.generation:
            self._workers.drop()  # it was closed
        action = respond(view, self._local, host, me)
        is_busy = yield from self._act(view, action, me)
        is_in = view.has(host, me)
        if is_in and view.proposal is not None and view.generation < view.proposal.entry.generation:
            self._workers.prepare(view.proposal.entry, view.proposal.number)
        yield from self._renew(view, me)
        if is_in and view.beat_of(host) is not None:
            is_busy = (yield from self._drive(view)) or is_busy
        # Only who drives a proposal has to look by the clock; the others are woken by a change, or by their workers.
        is_timed = view.proposal is not None and view.text(DRIVER) in ("", host)
        if is_busy or self._copy is None:
            return 0.0
        return _OPEN_S if is_timed or self._heard > self._copy.revision else _IDLE_S

    def lose_lease(self) -> None:
        """Go on without the lease, with which the host's beat went."""
        self._gate.lease, self._copy = (0, 0.0), None

    def _look(self, me: Member) -> Ask:
        """Return the fleet as it is known; who follows knows nothing of the beats of the others."""
        changes = yield "take", ()
        known = self._copy = follow(self._copy, changes, self._read_at) if self._copy and changes is not None else None
        is_due = known is None or self._heard > known.revision
        while True:
            if is_due:
                found = yield from self._read()
                if known is None or changed(known) != changed(found):  # what it tells comes late, or not at all
                    yield "watch", (*((HOSTS, ROSTER) if self._is_wide else (NOW, NOW)), found.revision)
            assert self._copy is not None
            view = View.parse(self._copy)
            # Who joins compares itself with the others, and who drives needs their beats.
            is_wide = not view.has(self._setup.host, me) or view.text(DRIVER) == self._setup.host
            if is_wide == self._is_wide:
                return view
            self._is_wide, self._copy, known, is_due = is_wide, None, None, True

    def _read(self) -> Ask:
        places = ALL if self._is_wide else (HOSTS + self._setup.host, NOW, ROSTER + self._setup.host)
        self._copy = found = yield "read", places
        self._read_at = self._heard = found.revision
        return found

    def _commit(self, transaction: Transaction) -> Ask:
        """Carry out a transaction; where it fails, what it rests on is read again."""
        revision = yield "commit", (transaction,)
        if not revision or self._copy is None:
            self._copy = None
            return revision
        own, items = {HOSTS + self._setup.host, ROSTER + self._setup.host}, dict(self._copy.items)
        for lease, values in ((0, transaction.puts), (transaction.lease, transaction.leased)):
            items.update({key: Item(values[key], 0, revision, lease) for key in own.intersection(values)})
        self._copy = self._copy._replace(items=items)
        return revision

    def stop(self) -> None:
        """End `run`."""
        self._is_stopping.set()

    def run(self, root: Path, open_keys: Callable[[], Keys], is_wanted: Callable[[], bool]) -> None:
        """Take part until `stop`, while this worker, of all of its host, holds a lock in the store; the body of a
        thread. `is_wanted` tells whether this worker takes part in its host."""
        descriptor = None
        while descriptor is None:
            if self._is_stopping.wait(_AWAY_S):
                return
            descriptor = durable_files.claim(root / FLEET_LOCK)
        # A child that the model's code forks would hold the lock beyond this worker's end.
        os.register_at_fork(after_in_child=functools.partial(os.close, descriptor))
        keys: Keys | None = None
        while not self._is_stopping.is_set():
            try:
                if not is_wanted():
                    self._is_stopping.wait(_AWAY_S)
                    continue
                keys = keys or open_keys()
                pause_s = carry_out(self.turn(), keys)
                until_s = time.monotonic() + pause_s
                look_s = (_IDLE_S if self._view is None or self._view.proposal is None else _OPEN_S) / _LOOKS
                while time.monotonic() < until_s and not self._is_stale() and not keys.wait(look_s):
                    continue
            except LeaseLostError:
                self.lose_lease()
            except Exception as error:  # a dead thread would shut the host out, unnoticed
                self._tell("away", error.message if isinstance(error, FleetError) else explain(error))
                self._is_stopping.wait(_AWAY_S)
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def leave(self) -> Ask:
        """Go, so that nobody waits for this host; its gate is shut first."""
        self._gate.fence = 1
        view = View.parse((yield "read", (HOSTS + self._setup.host, ROSTER + self._setup.host)))
        if view.has(self._setup.host, self._describe()):
            yield "commit", (leave(view, self._setup.host),)  # where it fails, another worker has said more

    def _act(self, view: View, action: HostAction, me: Member) -> Ask:
        if action.join is None:
            self._tell("out" if action.reason else "in", action.reason)
        if action.reason and (action.reason, self._setup.now_s() // (RETRY_S / 2)) != self._stated:
            self._stated = action.reason, self._setup.now_s() // (RETRY_S / 2)
            lease, stated = (yield "grant", (RETRY_S,))[0], json.dumps({"reason": action.reason, **asdict(me)})
            yield "commit", (Transaction(leased={AWAY + self._setup.host: stated}, lease=lease),)
        if action.fence is not None:
            self._gate.fence = action.fence
        if action.follow:
            last = self._local.generation if self._local is not None else 0
            missing = [view.committed] if view.committed is not None else []
            if action.reason or last + 1 < view.generation:  # what was missed, and the last one that was not
                found = read_entries((yield "read", (ENTRIES,)))
                missing = [one for one in found if last <= one.generation <= view.generation]
            self._workers.follow([one for one in missing if one is not None])
            if action.is_open_after:
                self._gate.fence = 0
            return True
        if action.join is not None:
            lease = yield from self._lease()
            return bool((yield from self._commit(join(view, self._setup.host, me, action.join, lease))))
        if action.say is not None:
            lease = yield from self._lease()
            yield from self._commit(say(view, self._setup.host, action.say, lease))
            return True
        return self._local is not None and action.fence not in (None, self._local.fence)

    @property
    def reason(self) -> str:
        """Why this host is out, as far as this worker knows; empty while it is in."""
        return self._told[1]

    def _tell(self, state: str, reason: str = "") -> None:
        """Tell, once, where this host is, and why."""
        if self._told != (state, reason):
            self._told = state, reason
            self._setup.emit("fleet", state=state, reason=reason)

    def _lease(self) -> Ask:
        lease, _ = self._gate.lease
        if not lease:
            self._gate.lease = yield "grant", (self._setup.lease_s,)
            lease, self._renew_at_s = self._gate.lease[0], 0.0
        return lease

    def _renew(self, view: View, me: Member) -> Ask:
        """Renew the lease after all that was read was acted on: a host that hangs does not."""
        (lease, ttl_s), sent_s = self._gate.lease, self._setup.now_s()
        own, beat = view.items.get(HOSTS + self._setup.host), view.beat_of(self._setup.host)
        # A lease that no beat of the roster hangs on tells the others nothing.
        is_ours = own is not None and own.lease == lease and beat is not None and beat.incarnation == me.incarnation
        if not is_ours or sent_s < self._renew_at_s:
            return
        revision = yield "keep_alive", (lease,)
        self._heard = max(self._heard, revision)
        if revision:
            self._renew_at_s = sent_s + ttl_s / _KEEP_ALIVES
            self._gate.believe(sent_s + ttl_s * SHORTER)
        else:
            self.lose_lease()

    def _drive(self, view: View) -> Ask:
        host, driver = self._setup.host, view.text(DRIVER)
        if driver not in ("", host):
            return False
        if not driver:
            lease = yield from self._lease()
            # The watch tells who was first.
            yield "commit", (Transaction({DRIVER: 0}, leased={DRIVER: host}, lease=lease),)
            return False
        found = self._driver.decide(view, self._setup.now_s())
        if found is not None and found[1] == COMMIT:
            # Nobody is passed over for a beat that the watch has lost.
            view = View.parse((yield from self._read()))
            found = self._driver.decide(view, self._setup.now_s())
        if found is None:
            return False
        transaction, event = found
        if transaction.leased:
            transaction = replace(transaction, lease=(yield "grant", (RETRY_S,))[0])
        if not (yield from self._commit(transaction)):
            return True
        trace = {"trace_id": view.proposal.entry.trace_id} if view.proposal is not None else {}
        self._setup.emit("fleet", state=event, reason="", revision=view.revision, **trace)
        return False


def changed(snapshot: Snapshot) -> dict[str, int]:
    """Return the revision that changed each key last."""
    return {key: item.changed for key, item in snapshot.items.items()}


def carry_out(asking: Ask, keys: Any) -> Any:
    """Give a turn what it asks for, one after the other, and return what it returns; raises `FleetError`."""
    try:
        name, arguments = next(asking)
        while True:
            name, arguments = asking.send(getattr(keys, name)(*arguments))
    except StopIteration as ended:
        return ended.value
