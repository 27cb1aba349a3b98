from __future__ import annotations

from pathlib import Path

from predictors import make_server

from serve.operations.explanation import explain
from serve.operations.operations import Status
from serve.rollout.decision import probation_of, why_no_probation
from serve.settings.settings import load_settings
from serve.store.operator_requests import Pin

LABELS = """
[models.a]
model = "m:M"
checkpoints = "ck"
{stable}
[models.a.canary]
checkpoints = "next"
share = 0.05
promote = {{requests = 2000, errors = 0, agreement = 0.99}}
[models.a.shadow]
checkpoints = "dark"
"""


def explained(directory: Path, name: str = "a", stable: str = "", status: Status | None = None) -> str:
    (directory / "serve.toml").write_text(LABELS.format(stable=stable))
    return "\n".join(explain(load_settings({}, directory).find(name), status))


def test_each_step_is_explained(tmp_path):
    text = explained(tmp_path)
    assert "on probation for 60 s" in text
    assert "7 in succession are spoiled, or more than 0.10% (errors, finite, range, unhealthy)" in text
    assert "nothing to go back to" in text


def test_what_is_switched_off_is_said_to_be(tmp_path):
    assert "It is not on probation: probation_s is 0." in explained(tmp_path, stable="probation_s = 0")
    assert 'memory = "resource" keeps no second model' in explained(tmp_path, stable='memory = "resource"')
    text = explained(tmp_path, stable='probation_rule = {errors = 1, slower = 0}\nretry_spoiled = "off"')
    assert "(finite, range, unhealthy)" in text
    assert "times as long" not in text
    assert "leave as they are" in text


def test_a_pin_comes_first(tmp_path):
    pin = Pin(1, "v3", "a" * 64, "2026")
    assert explained(tmp_path, status=Status(None, (), None, pin, ())).startswith("Nothing: version v3 is pinned")


def test_a_rule_is_explained(tmp_path):
    text = explained(tmp_path, "a@canary")
    assert (
        "After 2,000 answers with at most 0.00% bad ones, at least 99.00% agreeing, it becomes the stable one." in text
    )
    assert "X-Canary-Key" in text
    text = explained(tmp_path, "a@shadow")
    assert "promote is not set" in text
    assert "It is not on probation: a shadow's answers reach no client." in text


def test_why_there_is_no_probation(tmp_path):
    def settings(line):
        server = make_server(tmp_path, f'model = "m:M"\ncheckpoints = "ck"\n{line}\n')
        return next(iter(server.models.values())).stable.settings

    assert why_no_probation(settings("")) == ""
    for line in ("probation_s = 0", 'memory = "resource"', 'commit = "worker"'):
        assert line.partition(" ")[0] in why_no_probation(settings(line))
        assert probation_of(settings(line)) is None
    rule = probation_of(settings("probation_rule = {errors = 0.01, slower = 0, false_alarm = 1e-4}"))
    assert (rule.tolerated["errors"], rule.tolerated["slower"], rule.alarm, rule.ends_s) == (0.01, 1.0, 1e-4, 60)
