"""The bill of materials of a service, by the official schema."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from serve.cli.proof_commands import bom
from serve.operations.trace import Evidence, bill_of_materials, trace
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger

validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib[json-validation]")
from cyclonedx.schema import SchemaVersion  # noqa: E402

MARKER = {
    "sha256": "ab" * 32, "metrics": {"accuracy": 0.93}, "interface": {"inputs": "number[1, 3]", "outputs": "number[2]"},
    "training": {"commit": "abc"}, "format": "safetensors",
}  # fmt: skip


def valid(text, specification):
    errors = validation.JsonStrictValidator(SchemaVersion.from_version(specification)).validate_str(text)
    assert errors is None, errors
    return json.loads(text)


@pytest.mark.parametrize("specification", ["1.7", "1.6"])
@pytest.mark.parametrize("has_environment", [True, False])
def test_a_model_is_listed_with_its_proof_and_its_environment(tmp_path, specification, has_environment):
    (tmp_path / "store").mkdir()
    entry = Entry(0, "ab" * 32, 5, "v1", "model.safetensors", 1, "f", marker=json.dumps(MARKER))
    Ledger(Store(tmp_path / "store")).commit(entry)
    options = ["--store", str(tmp_path / "store"), "--spec", specification, "-o", str(tmp_path / "bom.json")]
    if has_environment:
        from envtool.export.sbom import BomRequest, bill_of_materials
        from envtool.lockfile.conda_lock_v1 import LockedPackage
        from tests.support.archives import lock_of

        wheel = LockedPackage(
            "pip", "flask", "2.0", "linux-64", "https://example.org/flask-2.0-py3-none-any.whl", "0" * 64
        )
        request = BomRequest(lock_of(wheel), "linux-64", ["main"], "serving", specification)
        (tmp_path / "env.json").write_text(bill_of_materials(request, is_offline=True))
        options += ["--environment", str(tmp_path / "env.json")]
    done = CliRunner().invoke(bom, options, env={"ENVSERVE_ENV_DIGEST": "cd" * 32})
    assert done.exit_code == 0, done.output
    text = (tmp_path / "bom.json").read_text()
    found = valid(text, specification)
    model, *others = found["components"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert model["modelCard"]["modelParameters"]["outputs"] == [{"format": "number[2]"}]
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "accuracy", "value": "0.93"}]
    properties = {each["name"]: each["value"] for each in model["properties"]}
    assert properties["serve:env_digest"] == "cd" * 32
    assert properties["serve:marker:training"] == '{"commit": "abc"}'
    assert [other["name"] for other in others] == (["serving", "flask"] if has_environment else [])
    before = hashlib.sha256(text.encode()).hexdigest()
    CliRunner().invoke(bom, options, env={"ENVSERVE_ENV_DIGEST": "cd" * 32})
    assert hashlib.sha256((tmp_path / "bom.json").read_bytes()).hexdigest() == before
    refs = {component["bom-ref"] for component in found["components"]} | {"service"}
    assert {
        ref for dependency in found["dependencies"] for ref in (dependency["ref"], *dependency.get("dependsOn", ()))
    } <= refs


NESTED = '{"components": ' + 100_000 * "[" + 100_000 * "]" + "}"


@pytest.mark.parametrize("written", ["[]", '{"components": [1]}', '{"components": null}', NESTED])
def test_what_is_no_bill_of_materials_is_refused(tmp_path, written):
    (tmp_path / "store").mkdir()
    (tmp_path / "env.json").write_text(written)
    Ledger(Store(tmp_path / "store")).commit(Entry(0, "ab" * 32, 5, "v1", "m", 1, "f"))
    done = CliRunner().invoke(bom, ["--store", str(tmp_path / "store"), "--environment", str(tmp_path / "env.json")])
    assert "expected CycloneDX" in str(done.exception)


def test_components_need_no_reference(tmp_path):
    entry = Entry(0, "ab" * 32, 5, "v1", "m", 1, "f", marker=json.dumps(MARKER))
    one = {"type": "library", "name": "one", "version": "1"}
    environment = json.dumps({"metadata": {"component": one}, "components": [{**one, "name": "two"}]})
    text = bill_of_materials(entry, None, environment.encode(), "1.7")
    valid(text, "1.7")
    (tmp_path / "bom.json").write_text(text)
    links = trace({"sha256": entry.sha256}, Evidence(bill=tmp_path / "bom.json"))
    assert (links[-1].name, links[-1].verdict) == ("bill", "verified")


def test_an_environment_that_is_not_there_is_wrong_usage(tmp_path):
    done = CliRunner().invoke(bom, ["--environment", str(tmp_path / "nothing")])
    assert (done.exit_code, "No such file" in done.output) == (2, True)
