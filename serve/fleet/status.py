"""What every host of a fleet is, for people and for the status page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from serve.fleet.messages import ALL, AWAY, DRIVER, FENCE, PIN, View

if TYPE_CHECKING:
    from serve.fleet.carriers import Keys

_LAPSED = "its lease is over: it was killed, hangs, or does not reach etcd"


def describe(keys: Keys) -> dict[str, Any]:
    """Return, in the form that JSON can hold, what is committed and proposed, and every host; raises `FleetError`."""
    found = keys.read(*ALL, AWAY)
    view, proposal = View.parse(found), View.parse(found).proposal
    away = {key[len(AWAY) :]: json.loads(item.value) for key, item in found.items.items() if key.startswith(AWAY)}
    return {
        "committed": None if view.committed is None else asdict(view.committed),
        "proposed": None if proposal is None else {"phase": proposal.phase, **asdict(proposal.entry)},
        "refused": {sha256: failure.reason for sha256, failure in view.refused.items()},
        "pin": view.text(PIN),
        "driver": view.text(DRIVER),
        "hosts": {name: _describe_host(view, name, away.get(name, {})) for name in sorted({*view.roster, *away})},
    }


def _describe_host(view: View, name: str, away: dict[str, Any]) -> dict[str, Any]:
    member, beat, proposal, phase = view.roster.get(name), view.beat_of(name), view.proposal, "idle"
    if beat is None:
        phase = "out"
    elif beat.live < 0:
        phase = "loading"
    elif proposal is not None:
        is_fenced = proposal.phase == FENCE and beat.fenced == proposal.round
        phase = FENCE if is_fenced else "prepared" if beat.prepared == proposal.number else "preparing"
    terms, place = (member.terms, member.place) if member is not None else (away["terms"], away["place"])
    return {
        "generation": beat.live if beat is not None else None,
        "phase": phase,
        "has_lease": beat is not None,
        "digest": terms.get("environment"),
        "place": place,
        # Another host of the same name is out, too; what this one stated before it came in is over.
        "reason": away.get("reason", _LAPSED) if beat is None or away.get("place", place) != place else "",
    }
