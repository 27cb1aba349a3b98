"""One timeline from publishing to the return, what changed between two generations, and drift, on real gunicorn."""

from __future__ import annotations

import json

import pytest
from affine import Turning
from click.testing import CliRunner
from serving import Load, wait_until

from serve.cli import cli

pytestmark = pytest.mark.needs_torch


def ask(store, *words):
    done = CliRunner().invoke(cli, [*words, "--store", str(store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.both_workers
def test_history_diff_and_drift_of_a_generation_that_takes_itself_back(start_server, trainer, tmp_path):
    store = tmp_path / "store"
    trainer.publish_kind(0)
    server = start_server(model="affine:Turning", drift_share=0.5)
    server.wait_live(1)
    with Load(server, [3.0, 1.0, 0.0, 2.0], threads=2) as load:
        load.wait_for_more(300)
        trainer.publish_kind(Turning.NAN, seed=8)
        server.wait_for_events("returned", 1)
        load.wait_for_more(300)
        wait_until(lambda: server.get("/status.json").json["models"][0]["drift"], "sketches of generation 3")
        status = json.loads(ask(store, "status", "--json"))["drift"]
        (model,) = server.get("/status.json").json["models"]
        metrics = server.get("/metrics").body.decode()
    back, bad, good = json.loads(ask(store, "history", "--json"))
    assert [moment["step"] for moment in good["moments"]] == ["published", "gates", "committed"]
    assert [moment["step"] for moment in bad["moments"]] == ["published", "gates", "committed", "taken back"]
    assert [moment["step"] for moment in back["moments"]][-1] == "committed"
    assert bad["spoiled"] >= 7
    assert bad["answers"] >= bad["spoiled"]
    assert good["answers"] >= 300
    assert back["p99_s"] > 0
    assert "taken back  finite: " in ask(store, "history", "--steps")
    assert [swap["generation"] for swap in model["swaps"] if not swap["refused"]] == [3, 2, 1]
    assert model["drift"]["generation"] == status["generation"] == 3
    assert status["before"] == 2
    assert status["spreads"]["inputs"]["mean"] == pytest.approx(1.5)
    assert 'envserve_sketched_value{label="stable",model="affine",of="inputs",statistic="mean"} 1.5' in metrics
    found = json.loads(ask(store, "diff", "1", "2", "--json"))
    assert {change["name"] for change in found["tensors"]} == {"layer.weight", "layer.bias"}
    assert all(change["largest"] > 0 for change in found["tensors"])
    assert set(found["facts"]) >= {"version", "sha256", "checkpoint"}
    assert "the bytes are the same" in ask(store, "diff", "1", "3")
