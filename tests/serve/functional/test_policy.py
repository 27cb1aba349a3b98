"""The policy of a machine in a real server: who must have signed, which environment, and what a report has anew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone

import pytest
from serving import ROOT, wait_until
from trainer import ROW

from serve.checkpoint.signature import write_keys
from serve.publishing.publish import Extras, publish

pytestmark = pytest.mark.needs_torch
DIGEST = "ab" * 32
BREACH = {"rule": "audit.level", "message": "pip flask 2.0: high: GHSA-1", "way_out": "lock again"}


@pytest.fixture
def machine(tmp_path):
    """Writes the policy, or the report that it names."""
    (tmp_path / "etc").mkdir()

    def write(rules: str = "", *breaches) -> list[str]:
        if rules:
            (tmp_path / "etc/policy.toml").write_text(f"[serve]\n{rules}\n")
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        report = {"env_digest": DIGEST, "checked": now, "breaches": breaches}
        (tmp_path / "etc/new.json").write_text(json.dumps(report))
        (tmp_path / "etc/new.json").replace(tmp_path / "etc/report.json")
        return ["env", f"ENVSERVE_POLICY={tmp_path / 'etc/policy.toml'}", f"ENVSERVE_ENV_DIGEST={DIGEST}"]

    return write


def metric(server, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", server.get("/metrics").body.decode(), re.M)[1])


def test_what_becomes_known_while_serving(start_server, trainer, machine, tmp_path):
    prefix = machine('report = "report.json"\nrefuse = true')
    report = tmp_path / "etc/report.json"
    report.rename(tmp_path / "etc/away.json")
    trainer.publish(1)
    server = start_server(prefix=prefix)
    server.wait_for_text(r"(serve\.refuse: there is no report of this environment)")
    (tmp_path / "etc/away.json").rename(report)
    server.wait_live(1)
    assert metric(server, "envserve_policy_breaches") == 0
    machine("", BREACH)
    server.wait_for_text('("event": "policy_broken")')
    wait_until(lambda: metric(server, "envserve_policy_breaches") == 1, "the metric", lambda: server.text)
    assert metric(server, "envserve_policy_report_age_seconds") < 3600
    trainer.publish(2)
    server.wait_for_text(r"(serve\.refuse: audit\.level: pip flask 2\.0: high: GHSA-1)")
    assert server.client().predict([ROW]).generation == 1  # what is live stays
    machine("")  # the environment was mended, or the finding explained
    argv = [sys.executable, "-m", "serve", "retry", "--store", str(tmp_path / "store")]
    subprocess.run(argv, cwd=ROOT, check=True)
    server.wait_live(2)
    assert server.text.count('"event": "policy_broken"') == 1  # once for both workers


def test_who_must_have_signed(start_server, trainer, machine, tmp_path):
    pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
    public, _ = write_keys(tmp_path / "team.pem")
    prefix = machine(f'signed-by = ["{public}"]')
    trainer.publish(1)
    server = start_server(prefix=prefix)
    server.wait_for_text(r"(serve\.signed-by: the signature: expected one by)")
    publish(trainer.train(2), trainer.directory, "m2.safetensors", "v2", Extras(key=tmp_path / "team.pem"))
    server.wait_live(1)
    assert server.client().predict([ROW]).headers["x-model-version"] == "v2"


def test_an_environment_that_is_not_listed(start_server, trainer, machine):
    trainer.publish(1)
    server = start_server(prefix=machine(f'env-digests = ["{"cd" * 32}"]'))
    assert server.process.wait(120) != 0
    assert "serve.env-digests: this environment is not allowed here" in server.text


@pytest.mark.parametrize("rules", ["signed-by = [1]", "refuse = 1", "reports = 'x'", "serve = 3"])
def test_a_policy_that_cannot_be_read_lets_no_server_start(tmp_path, rules):
    from serve.errors import SettingsError
    from serve.policy import Policy

    path = tmp_path / "policy.toml"
    path.write_text(rules if rules.startswith("serve") else f"[serve]\n{rules}\n")
    with pytest.raises(SettingsError, match=r"policy\.toml: serve"):
        Policy({"ENVSERVE_POLICY": str(path)}, None)
