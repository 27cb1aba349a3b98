"""The alarms of `templates/deploy/alerts.yml`: a real Prometheus asks a real server, and the first fault fires."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from serving import ask_at_once, wait_until
from trainer import ROW

from serve.metrics.metric_families import REASONS
from tests.support import debian

ROOT = Path(__file__).resolve().parents[3]
ALERTS = ROOT / "templates" / "deploy" / "alerts.yml"


@pytest.fixture(scope="session")
def programs():
    """Where Debian's `prometheus` and `promtool` are."""
    found = shutil.which("prometheus")
    place = Path(found).parent if found else debian.unpack(ROOT / ".cache" / "prometheus", "prometheus") / "usr" / "bin"
    if not (place / "promtool").exists():
        pytest.skip("no Prometheus: apt-get install prometheus")
    return place


@pytest.fixture
def prometheus(programs, tmp_path):
    """A function that starts a Prometheus which asks a port each 0.2 s, and gives the names of the alarms that fire."""
    running = []

    def start(port):
        rules = ALERTS.read_text().replace("for: 1m", "for: 1s").replace("for: 2m", "for: 1s").replace("> 300", "> 1")
        (tmp_path / "alerts.yml").write_text(rules)
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\n"
            "rule_files: [alerts.yml]\n"
            f"scrape_configs: [{{job_name: e, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            own = free.getsockname()[1]
        argv = [programs / "prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{own}"]
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen([*argv, "--storage.tsdb.path=tsdb"], cwd=tmp_path, stdout=log, stderr=log)
        running.append(process)

        def ask(path):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{own}{path}", timeout=5) as answer:
                    return json.load(answer)["data"]
            except OSError:
                return {}

        def firing():
            alerts = ask("/api/v1/alerts").get("alerts", [])
            return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

        def is_asking():
            return ask("/api/v1/query?query=envserve_env_info").get("result")

        wait_until(is_asking, "Prometheus to have asked", (tmp_path / "prometheus.log").read_text)
        return firing

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.mark.needs_torch
def test_the_first_fault_fires(start_server, trainer, prometheus, worker):
    """Each rule, from the first fault of its kind on."""
    trainer.publish(1)
    settings = {"commit": "worker", "max_body_bytes": 1000, "max_batch_delay_ms": 30}
    server = start_server(model="affine:Faulty", **settings)
    server.wait_live(1)
    firing = prometheus(server.port)
    server.client().predict([ROW])
    wait_until(lambda: not firing(), "no alarm", lambda: str(firing()))
    fired = set()

    def expect(*names):
        assert not fired & set(names)
        fired.update(names)
        wait_until(lambda: fired <= firing(), str(names), lambda: f"{firing()} {server.text}")
        assert firing() == fired

    assert server.client().predict([[13, 0, 0, 0]]).status == 500
    expect("EnvserveErrors", "EnvserveFault")
    assert server.client().request("POST", "/predict", b" " * 2000).status == 413
    expect("EnvserveRequestsRejected")
    if worker == "asgi":  # threads join no requests
        rows = [[number * 1e4, 0, 0, 0] for number in range(2, 10)]
        wait_until(lambda: ask_at_once(server, rows) and server.events("batch_mismatch"), "a mismatch")
        expect("EnvserveBatchMismatch")
    bad = trainer.publish(2)
    Path(bad.checkpoint).write_bytes(b"x" * bad.size)
    server.wait_for_events("refused", 1)
    expect("EnvserveCheckpointRefused", "EnvserveCheckpointNotServed")
    stopped, _ = server.workers()
    os.kill(stopped, signal.SIGSTOP)
    trainer.publish(3)
    server.wait_live(2, workers=1)
    fired.discard("EnvserveCheckpointNotServed")
    expect("EnvserveWorkersDisagree")
    os.kill(stopped, signal.SIGCONT)
    server.wait_live(2)
    fired.discard("EnvserveWorkersDisagree")
    server.process.send_signal(signal.SIGTTOU)
    expect("EnvserveTooFewWorkers")
    server.stop()
    wait_until(lambda: "EnvserveDown" in firing(), "EnvserveDown", lambda: str(firing()))
    fired.update(("EnvserveDown", "EnvserveWorkersDisagree", "EnvserveCheckpointNotServed"))
    assert fired == {line.split()[-1] for line in ALERTS.read_text().splitlines() if "- alert:" in line} - (
        set() if worker == "asgi" else {"EnvserveBatchMismatch"}
    )


@pytest.mark.needs_torch
def test_a_fault_before_the_first_look_fires(start_server, trainer, prometheus):
    Path(trainer.publish(1).checkpoint).write_bytes(b"x")
    server = start_server(workers=1)
    server.wait_for_events("refused", 1)
    firing = prometheus(server.port)
    wait_until(lambda: "EnvserveCheckpointRefused" in firing(), "the alarm", lambda: str(firing()))


CASES = {
    "EnvserveWorkersDisagree": ("envserve_generation_skew", "0 1+0x10"),
    "EnvserveTooFewWorkers": ("envserve_workers", "2+0x60 1+0x10"),
    "EnvserveErrors": ('envserve_requests_total{status="503"}', "0 0 1+0x10"),
    "EnvserveFault": ('envserve_faults_total{event="stopped"}', "0 0 1+0x10"),
    "EnvserveRequestsRejected": ('envserve_rejected_requests_total{reason="queue_full"}', "_ _ 1+0x10"),
    "EnvserveCheckpointRefused": ('envserve_swaps_total{outcome="refused",reason="hash"}', "_ _ 1+0x10"),
    "EnvserveCheckpointNotServed": ("envserve_unserved_seconds", "0 299 301+60x10"),
    "EnvserveBatchMismatch": ("envserve_batch_mismatches_total", "0 0 1+0x10"),
    "EnvserveDown": ("envserve_env_info", "1 1 stale"),
}


def test_each_rule_fires_from_the_first_fault_on(programs, tmp_path):
    tests = [_test(name, *case) for name, case in CASES.items()]
    (tmp_path / "alerts.yml").write_bytes(ALERTS.read_bytes())
    told = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(json.dumps(told))
    argv = [programs / "promtool", "test", "rules", "test.yml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(CASES) == {line.split()[-1] for line in ALERTS.read_text().splitlines() if "- alert:" in line}


def _test(name, series, values):
    """It does not fire before the fault, if the series was there before, and soon after it does."""
    firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    looks = [{"expr": firing, "eval_time": "65m" if "x60" in values else "5m", "exp_samples": [{"value": 1}]}]
    if "_" not in values:
        looks.append({"expr": firing, "eval_time": "0m", "exp_samples": []})
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "promql_expr_test": looks,
    }


def test_each_code_of_a_fault_has_a_series():
    codes = {
        call.args[0].value
        for path in (ROOT / "serve").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "CheckpointError"
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert codes
    assert codes <= set(REASONS)
