"""The one door to etcd: its JSON gateway, by the standard library.

Several addresses, TLS, a user. Source: etcd.io, API reference and gRPC gateway, 3.4."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serve.errors import FleetError
from serve.fleet.keys import Change, Changes, Item, LeaseLostError, Snapshot, Transaction

# Passwords are hashed slowly on purpose (etcd --bcrypt-cost).
_TIMEOUT_S, _AUTHENTICATE_S, _WATCH_TIMEOUT_S = 1.0, 10.0, 60.0
_JSON = {"Content-Type": "application/json"}
# Source: google.golang.org/grpc/codes.
_NOT_FOUND, _UNAUTHENTICATED = 5, 16


class Etcd:
    """The shared keys; every call may raise `FleetError`, and may have been carried out nevertheless. Of etcd's `urls`
    one that does not answer is replaced by the next; callers do not name the `prefix` of all keys; in `secrets` are
    `ca.pem`, `client.pem` and `client.key`, and `user` with NAME:PASSWORD, each if wanted."""

    def __init__(self, urls: tuple[str, ...], prefix: str, secrets: Path | None = None) -> None:
        self._urls, self._prefix, self._at, self._token = urls, prefix, 0, ""
        self._connection: http.client.HTTPConnection | None = None
        self._lock, self._changes = threading.Lock(), Changes()
        self.take, self.wait = self._changes.take, self._changes.wait
        ca, certificate, user = ((secrets or Path()) / name for name in ("ca.pem", "client.pem", "user"))
        try:
            self._tls = ssl.create_default_context(cafile=str(ca) if secrets and ca.exists() else None)
            if secrets and certificate.exists():
                self._tls.load_cert_chain(certificate, secrets / "client.key")
            self._user = user.read_text(encoding="utf-8").strip() if secrets and user.exists() else ""
        except (OSError, ValueError) as error:
            raise FleetError(f"fleet_secrets: {secrets}: {error}") from error

    def read(self, *places: str) -> Snapshot:
        """Return keys, and what is below prefixes, which end with a slash; as new as any answered change."""
        asked = [{"request_range": self._range_of(place)} for place in places]
        found = self._call("kv/txn", {"success": asked})
        kvs = [one for part in found["responses"] for one in part["response_range"].get("kvs", ())]
        return Snapshot(int(found["header"]["revision"]), dict(map(self._read_item, kvs)))

    def commit(self, transaction: Transaction) -> int:
        """Carry out a transaction, and return its revision; 0: not all was as it had to be. Raises `LeaseLostError`."""
        compares: list[object] = [
            {"target": "MOD", "result": "EQUAL", "mod_revision": str(seen), "key": self._key(key)}
            for key, seen in transaction.unchanged.items()
        ]
        compares += [
            {"target": "MOD", "result": "LESS", "mod_revision": str(seen + 1), **self._range_of(prefix)}
            for prefix, seen in transaction.quiet.items()
        ]
        does: list[object] = [
            {"request_put": {"key": self._key(key), "value": _encode(value), "lease": str(lease)}}
            for lease, values in ((0, transaction.puts), (transaction.lease, transaction.leased))
            for key, value in values.items()
        ]
        does += [{"request_delete_range": {"key": self._key(key)}} for key in transaction.deletes]
        found = self._call("kv/txn", {"compare": compares, "success": does})
        return int(found["header"]["revision"]) if found.get("succeeded") else 0

    def grant(self, ttl_s: float) -> tuple[int, float]:
        """Begin a lease; return its number and its seconds, which etcd rounds up, and which have a least value."""
        found = self._call("lease/grant", {"TTL": str(max(1, -int(-ttl_s // 1)))})
        return int(found["ID"]), float(found["TTL"])

    def keep_alive(self, lease: int) -> int:
        """Renew a lease, and return the revision that the keys are at; 0: there was no lease."""
        found = self._call("lease/keepalive", {"ID": str(lease)})["result"]
        return int(found["header"]["revision"]) if int(found.get("TTL", 0)) > 0 else 0

    def watch(self, first: str, last: str, after: int) -> None:
        """Begin to take down what changes after a revision from one prefix to another, instead of what was watched."""
        whole = {"key": self._key(first), "range_end": self._range_of(last)["range_end"]}
        request = {**whole, "start_revision": str(after + 1), "prev_kv": True}
        self._changes.begin(self._follow, json.dumps({"create_request": request}))

    def _follow(self, number: int, request: str) -> None:
        """Take down a watch until it ends, or another one was begun."""
        began_s = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            connection = self._connect(_WATCH_TIMEOUT_S)
            connection.request("POST", "/v3/watch", request, self._headers())
            with connection.getresponse() as response:
                found: dict[str, Any] = {}
                while not found.get("canceled") and self._changes.note(number, self._read_changes(found)):
                    found = json.loads(response.readline())["result"]
        time.sleep(max(0.0, began_s + _TIMEOUT_S / 4 - time.monotonic()))  # else one that is refused is a loop
        self._changes.end(number)

    def _read_changes(self, found: Mapping[str, Any]) -> Iterator[Change]:
        for event in found.get("events", ()):
            (key, item), before = self._read_item(event["kv"]), event.get("prev_kv", {}).get("mod_revision", 0)
            yield Change(key, item.changed, None if event.get("type") == "DELETE" else item, int(before))

    def _call(self, path: str, body: Mapping[str, object]) -> Any:
        with self._lock:
            fault: Exception | None = None
            for _ in range(2 * len(self._urls)):
                try:
                    if self._user and not self._token:
                        name, _, password = self._user.partition(":")
                        self._connection = self._connect(_AUTHENTICATE_S)
                        self._token = self._post("auth/authenticate", {"name": name, "password": password})["token"]
                        self._connection = None
                    return self._post(path, body)
                except (OSError, http.client.HTTPException, ValueError, _UnavailableError) as error:
                    fault = error
                    if self._connection is not None:
                        self._connection.close()
                    self._connection, self._at = None, self._at + 1
        raise FleetError(f"etcd at {', '.join(self._urls)}: {fault}", hint="is it running, and may this host reach it?")

    def _post(self, path: str, body: Mapping[str, object]) -> Any:
        self._connection = self._connection or self._connect(_TIMEOUT_S)
        self._connection.request("POST", f"/v3/{path}", json.dumps(body), self._headers())
        response = self._connection.getresponse()
        found = json.loads(response.read())
        if response.status == 200 and "error" not in found:
            return found
        code, message = found.get("code", 0), str(found.get("message") or found.get("error"))
        if code == _NOT_FOUND and "lease" in message:
            raise LeaseLostError(message)
        if code == _UNAUTHENTICATED:
            self._token = ""
        if code == _UNAUTHENTICATED or response.status >= 500:
            raise _UnavailableError(message)
        raise FleetError(f"etcd: {message}")

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        url = urlsplit(self._urls[self._at % len(self._urls)])
        host, port = url.hostname or "", url.port or 2379
        if url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        return {**_JSON, "Authorization": self._token} if self._token else _JSON

    def _key(self, key: str) -> str:
        return _encode(self._prefix + key)

    def _range_of(self, place: str) -> dict[str, str]:
        if not place.endswith("/"):
            return {"key": self._key(place)}
        # All keys that begin so: up to the prefix whose last byte is one higher.
        return {"key": self._key(place), "range_end": self._key(place[:-1] + chr(ord("/") + 1))}

    def _read_item(self, stated: Mapping[str, Any]) -> tuple[str, Item]:
        numbers = (int(stated.get(name, 0)) for name in ("create_revision", "mod_revision", "lease"))
        return _decode(stated["key"])[len(self._prefix) :], Item(_decode(stated.get("value", "")), *numbers)


class _UnavailableError(Exception):
    """This node cannot say; another one may."""


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()
