"""The policy of a machine: what may be served here, whatever the settings of a server are.

The table `[serve]` of the file that `ENVSERVE_POLICY` names, or of `/etc/envserve/policy.toml` where there is one; its
other tables are envtool's. What becomes known later, such as a vulnerability of a package of this environment, is in a
report that `envtool policy -o` writes from a timer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.checkpoint.signature import Verifier
from serve.durable_files import Records
from serve.errors import Issue, SettingsError, SignatureError, TrialError

if TYPE_CHECKING:
    from serve.events.event_log import EventLog

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLE = "ENVSERVE_POLICY"
DEFAULT = Path("/etc/envserve/policy.toml")
_KINDS: dict[str, Any] = {"env-digests": list, "signed-by": list, "report": str, "refuse": bool}
_KINDS["live-proof-s"] = (int, float)
_REPORT_AGE_S = 1.0


@dataclass(frozen=True)
class Breach:
    """A rule that this environment breaks by the last report."""

    rule: str
    message: str
    way_out: str = ""


class Policy:
    """The rules for one environment; none without a file. Raises `SettingsError`: nothing may be served here."""

    def __init__(self, environ: Mapping[str, str], env_digest: str | None) -> None:
        named = environ.get(VARIABLE)
        self.path = Path(named) if named else DEFAULT if DEFAULT.is_file() else None
        self._env_digest = env_digest
        rules = _read(self.path) if self.path else {}
        self.live_proof_s: float = rules.get("live-proof-s", 0)
        self._may_refuse: bool = rules.get("refuse", False)
        base = self.path.parent if self.path else Path()
        self._report = base / rules["report"] if "report" in rules else None
        self._read_s = 0.0
        self._last: tuple[float, tuple[Breach, ...]] = (0.0, ())
        try:
            keys = [base / name for name in rules.get("signed-by", ())]
            self._verifier = Verifier(keys) if "signed-by" in rules else None
        except SignatureError as error:
            raise SettingsError([Issue(f"{self.path}: serve.signed-by", error.message, error.hint)]) from error
        if env_digest not in rules.get("env-digests", [env_digest]):
            message = f"this environment is not allowed here: {env_digest}"
            hint = "start the server from an environment that is listed"
            raise SettingsError([Issue(f"{self.path}: serve.env-digests", message, hint)])

    def require(self, stated: Mapping[str, object], sha256: str) -> None:
        """Refuse a checkpoint, as long as this policy holds; `stated`: by its marker. Raises `TrialError`."""
        if self._verifier is not None:
            try:
                self._verifier.require(stated)
            except Exception as error:
                raise TrialError("policy", f"{self.path}: serve.signed-by: {error}") from error
            if stated.get("sha256") != sha256:
                raise TrialError("policy", f"{self.path}: serve.signed-by: signed for another sha256 than {sha256}")
        checked_s, breaches = self.report() if self._may_refuse else (1.0, ())
        if not checked_s:
            hint = "envtool policy -o writes it; the timer that runs it may have failed"
            raise TrialError("policy", f"{self.path}: serve.refuse: there is no report of this environment", hint)
        if breaches:
            said = "; ".join(f"{one.rule}: {one.message}" for one in breaches)
            raise TrialError("policy", f"{self.path}: serve.refuse: {said}", breaches[0].way_out)

    def report(self) -> tuple[float, tuple[Breach, ...]]:
        """Return when the last report of this environment was made, in seconds since 1970 or 0, and its breaches."""
        if self._report is not None and time.monotonic() > self._read_s + _REPORT_AGE_S:
            self._read_s = time.monotonic()
            try:
                report = json.loads(self._report.read_bytes())
                breaches = tuple(
                    Breach(str(one["rule"]), str(one["message"]), str(one.get("way_out", "")))
                    for one in report["breaches"]
                )
                checked_s = datetime.fromisoformat(report["checked"]).timestamp()
                is_ours = report["env_digest"] == self._env_digest
            except (OSError, ValueError, TypeError, KeyError):
                is_ours = False  # it is written anew by the next run of the timer
            self._last = (checked_s, breaches) if is_ours else (0.0, ())
        return self._last


@dataclass(frozen=True)
class _Seen:
    """The last report that this host has seen, by its time, and what it had."""

    checked_s: float
    keys: Sequence[str]


class PolicyWatch:
    """Logs what a report has anew, once for each host."""

    def __init__(self, policy: Policy, root: Path, log: EventLog) -> None:
        self._policy, self._log = policy, log
        self._seen: Records[_Seen] = Records(root / "policy.json", _Seen, lambda one: "last")

    def look(self) -> None:
        """Compare the report with the one before; another worker may be the first to see it."""
        checked_s, breaches = self._policy.report()
        if not checked_s or not self._is_new(self._seen.read(), checked_s):
            return
        new: list[Breach] = []

        def edit(seen: Mapping[str, _Seen]) -> Mapping[str, _Seen]:
            if not self._is_new(seen, checked_s):
                return seen
            known = seen["last"].keys if seen else ()
            new[:] = [one for one in breaches if one.rule + one.message not in known]
            return {"last": _Seen(checked_s, [one.rule + one.message for one in breaches])}

        self._seen.change(edit)
        for one in new:
            self._log.emit("policy_broken", rule=one.rule, reason=one.message, hint=one.way_out or None)

    @staticmethod
    def _is_new(seen: Mapping[str, _Seen], checked_s: float) -> bool:
        return not seen or seen["last"].checked_s < checked_s


def _read(path: Path) -> Mapping[str, Any]:
    try:
        rules = tomllib.loads(path.read_text(encoding="utf-8")).get("serve", {})
    except (OSError, ValueError) as error:
        raise SettingsError([Issue(str(path), f"expected a policy in TOML ({error})")]) from error
    rules = rules if isinstance(rules, dict) else {"": rules}
    wrong = [key for key, value in rules.items() if key not in _KINDS or not isinstance(value, _KINDS[key])]
    texts = [key for key in ("env-digests", "signed-by") if key in rules and key not in wrong]
    wrong += [key for key in texts if not all(isinstance(text, str) for text in rules[key])]
    if wrong:
        expected = "expected env-digests and signed-by (lists of texts), report (a path), refuse (true, false), "
        raise SettingsError([Issue(f"{path}: serve.{key}", f"{expected}live-proof-s (seconds)") for key in wrong])
    return rules
