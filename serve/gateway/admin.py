"""Operators' orders over HTTP: rollback, pin, unpin, look now.

They need the token in `admin_token_file`, which is read anew for each order, so that a new token needs no restart.
Without that setting there are none. Like the commands, they are carried out by `serve.operations.operations`."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from serve.errors import OperationError
from serve.http.messages import Request, Response, fail, succeed

if TYPE_CHECKING:
    from serve.gateway.server import Server
    from serve.operations.operations import Operations

ACTIONS = ("look", "pin", "rollback", "unpin")
_SCHEME = "bearer"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="envserve"'}
_KEYS: Mapping[str, frozenset[str]] = {"pin": frozenset({"reason"}), "rollback": frozenset({"version"})}


def check_token(server: Server, request: Request) -> Response:
    """Say whether the token is right, before any order is given."""
    return authorize(server.settings.admin_token_file, request.headers) or succeed({"actions": ACTIONS})


def order(server: Server, request: Request) -> Response:
    """Give an order to the model that the path names."""
    refused = authorize(server.settings.admin_token_file, request.headers)
    if refused is not None:
        return refused
    try:
        operations = server.telemetry.operations(request.place["name"])
        return carry_out(operations, request.place["action"], bytes(request.body))
    except OperationError as error:
        return fail(409, error.message, hint=error.hint)


def authorize(token_file: Path | None, headers: Mapping[str, str]) -> Response | None:
    """Check a request's token: `None` where it is right, 401 where not, 404 where `admin_token_file` is not set."""
    if token_file is None:
        return fail(404, "no such page")
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    try:
        expected = token_file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        expected = ""
    is_right = hmac.compare_digest(shown.strip().encode(), expected.encode())  # in the same time wherever they differ
    if scheme.lower() != _SCHEME or not expected or not is_right:
        return fail(401, "expected the admin token, as Authorization: Bearer …", _CHALLENGE)
    return None


def carry_out(operations: Operations, action: str, body: bytes) -> Response:
    """Give one of `ACTIONS`, with what it needs in the body as JSON, and answer 202; raises `OperationError`."""
    if action not in ACTIONS:
        return fail(404, f"{action}: expected one of {', '.join(ACTIONS)}")
    try:
        stated = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        return fail(400, f"the body is not JSON: {error}")
    keys = _KEYS.get(action, frozenset())
    if not isinstance(stated, dict) or not set(stated) <= keys or not all(isinstance(v, str) for v in stated.values()):
        return fail(422, f"the body: expected an object of texts with the keys {sorted(keys)}")
    given: dict[str, object] = {}
    if action == "rollback":
        given = asdict(operations.rollback(stated.get("version")))
    elif action == "pin":
        given = asdict(operations.pin(stated.get("reason", "")))
    elif action == "unpin":
        given = {"was_pinned": operations.unpin()}
    else:
        operations.coordinator.wake()
    return succeed({"action": action, **given})._replace(status=202)
