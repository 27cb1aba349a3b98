"""The policy of a machine: which locks may become environments here. `policy.toml` (of `ENVSERVE_POLICY`, or in
`/etc/envserve`) has `[create]` and `[audit]` for envtool, `[serve]` for the server; without it everything is
allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envtool.console import warn
from envtool.errors import InvalidFileError, Issue, PolicyError
from envtool.fetch.credentials import strip

if TYPE_CHECKING:
    from envtool.install.request import Request

# What a rule needs is imported where it is checked: most machines have no policy, and `create` has to be quick.
VARIABLE = "ENVSERVE_POLICY"
DEFAULT = Path("/etc/envserve/policy.toml")
# Beside a lock: what `envtool lock --attest` wrote of it.
STATEMENT_SUFFIX = ".dsse.json"
# In place of the env digest of an image's tree.
UNKNOWN_DIGEST = "a digest that only the running image states"
_TEXTS = "a list of texts"
_KEYS = {
    "create": {"sources": _TEXTS, "signed-by": _TEXTS, "env-digests": _TEXTS},
    "audit": {
        "database": "a path", "ignore": "a path", "level": "low, medium, high or critical",
        "older-than-days": "a number", "allow-licenses": _TEXTS, "deny-licenses": _TEXTS,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Breach:
    """A rule of the policy that something breaks, and the way out."""

    rule: str
    message: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


class Policy:
    """The rules of one file; an empty one allows everything. Raises InvalidFileError if the file cannot be used."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._base = path.parent if path else Path()
        table = _read(path) if path else {}
        self._create: Mapping[str, Any] = table.get("create", {})
        self._audit: Mapping[str, Any] = table.get("audit", {})

    def breaches(self, request: Request, lock: Path | None, env_digest: str | None = None) -> Iterator[Breach]:
        """What a request breaks; with the env digest of what was made of it, also what is known only then: the digest
        itself, and licences that only the archives state."""
        packages = request.packages
        sources = tuple(self._create.get("sources", ()))
        for each in packages:
            if sources and not strip(each.url).startswith(sources):
                way_out = "lock it from one of these, or have the source added to the policy"
                yield Breach("create.sources", f"{each.name} comes from {strip(each.url)}", way_out)
        if "signed-by" in self._create and not request.is_vouched:
            yield from self._signature(lock)
        if env_digest is not None and env_digest not in self._create.get("env-digests", [env_digest]):
            yield Breach("create.env-digests", f"{env_digest} is not listed", "have it added, or create another lock")
        if "database" in self._audit:
            yield from self._vulnerabilities(request)
        allowed, denied = self._audit.get("allow-licenses", ()), self._audit.get("deny-licenses", ())
        if allowed or denied:
            from envtool.audit import audit

            stated = audit.licenses(packages)
            is_made = env_digest is not None
            judged = stated if is_made else {name: license for name, license in stated.items() if license}
            if denied and is_made and (said := audit.doubt(stated)):
                warn(said)
            for name, license in audit.refused(judged, allowed, denied).items():
                yield Breach("audit licences", f"{name} has the licence {license}", "use another package")

    def _signature(self, lock: Path | None) -> Iterator[Breach]:
        from envtool.fetch.archive_cache import sha256_of
        from envtool.signing import dsse
        from envtool.signing.trust import load_key

        way_out = f"envtool lock --attest {lock or 'conda-lock.yml'}{STATEMENT_SUFFIX} --attest-key KEY"
        keys = [load_key(self._base / each, is_private=False, takes_ecdsa=True) for each in self._create["signed-by"]]
        try:
            if lock is None:
                raise ValueError("a bundle that is not signed")
            stated = dsse.unseal(json.loads(lock.with_name(lock.name + STATEMENT_SUFFIX).read_bytes()), keys)
            if {"sha256": sha256_of(lock)} not in [each["digest"] for each in stated["subject"]]:
                raise ValueError("the statement is about another lock")
        except FileNotFoundError as error:
            yield Breach("create.signed-by", f"there is no {error.filename}", way_out)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Breach("create.signed-by", str(error), way_out)

    def _vulnerabilities(self, request: Request) -> Iterator[Breach]:
        from envtool.audit import audit
        from envtool.inspect_lock.graph import graph

        whole = graph(request.lockfile, request.platform, request.categories)
        ignored = self._audit.get("ignore")
        found = audit.audit(whole, self._base / self._audit["database"], self._base / ignored if ignored else None)
        latest = datetime.now(timezone.utc).date() - timedelta(days=self._audit.get("older-than-days", 0))
        for each in found.failing(self._audit.get("level", "low")):
            # One without a date may be of any age.
            if each.vulnerability.published[:10] <= latest.isoformat():
                fixed = f"envtool lock --upgrade-package {each.package.name}"
                way_out = fixed if each.vulnerability.fixed else "say in the OpenVEX file why it does not affect you"
                yield Breach("audit.level", audit.sentence(each), way_out)


def find() -> Policy:
    """The policy of this machine."""
    named = os.environ.get(VARIABLE)
    return Policy(Path(named) if named else DEFAULT if DEFAULT.is_file() else None)


def require(request: Request, lock: Path | None, env_digest: str | None = None) -> None:
    """Refuse what this machine's policy does not allow. Raises PolicyError, which names each rule and a way out."""
    policy = find()
    found = list(policy.breaches(request, lock, env_digest))
    if found:
        done = "" if env_digest is None else "it was made and may not be used; envtool remove deletes it\n"
        message = f"{policy.path} does not allow this:" + "".join(f"\n  {each}" for each in found)
        raise PolicyError(message, done + "\n".join(dict.fromkeys(each.way_out for each in found)))


def _read(path: Path) -> dict[str, Any]:
    from envtool import toml

    try:
        table = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidFileError(str(path), [Issue(str(path), f"cannot be read as TOML: {error}")]) from error
    issues = []
    for name, keys in _KEYS.items():
        section = table.get(name, {})
        for key in section if isinstance(section, Mapping) else [""]:
            expected = keys.get(key)
            if expected is None or not _fits(section[key], expected):
                issues.append(Issue(f"{path}: [{name}] {key}", f"expected {expected or ', '.join(keys)}"))
    for name in sorted(table.keys() - {*_KEYS, "serve"}):
        issues.append(Issue(f"{path}: [{name}]", f"expected {', '.join([*_KEYS, 'serve'])}"))
    if issues:
        raise InvalidFileError(str(path), issues, "docs/how-to/policy.md lists every key")
    return table


def _fits(value: Any, expected: str) -> bool:
    if expected == _TEXTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if expected == "a number":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if expected == "a path":
        return isinstance(value, str)
    from envtool.audit.osv import LEVELS

    return value in LEVELS
