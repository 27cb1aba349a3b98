"""From an answer of a real server to every byte that made it, and one flipped byte in each link."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT
from trainer import ROW

from serve.publishing.publish import Extras, publish
from tests.support.archives import Archive, File, lock_of, locked

pytestmark = pytest.mark.needs_torch
pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
LINKS = ["answer", "generation", "checkpoint", "publisher", "gates", "environment", "lock", "packages", "provenance"]


def run(module, *arguments, code=0, cwd=ROOT):
    own = {"PYTHONPATH": str(ROOT), "ENVTOOL_HOME": str(cwd / "home")} if module == "envtool" else {}
    argv = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def make_key(directory: Path, name: str, *kind: str) -> Path:
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", *kind, "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private


@pytest.fixture
def chain(start_server, trainer, tmp_path):
    """A directory with the evidence for one answer, and the arguments that name it."""
    place = tmp_path / "c"
    place.mkdir()
    signer = make_key(place, "trainer", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    team = make_key(place, "team", "ed25519")
    archive = Archive("tool", {"bin/tool": File(b"#!/bin/sh\n", 0o755)}).write(place / "channel")
    from envtool.lockfile.conda_lock_v1 import format_lockfile

    (place / "conda-lock.yml").write_text(format_lockfile(lock_of(locked(archive))))
    run("envtool", "create", "-p", place / "env", cwd=place)
    statement = ["--attest", place / "env.json", "--attest-key", team]
    report = json.loads(run("envtool", "verify", "-p", place / "env", *statement, "--json", cwd=place))
    publish(trainer.train(1), trainer.directory, "model.safetensors", "v1", Extras(openssf_key=signer))
    log = place / "access.log"
    server = start_server(
        verify_key=place / "trainer.pub", access_log="on",
        prefix=["env", f"ENVSERVE_ENV_DIGEST={report['env_digest']}", "sh", "-c", f'exec "$@" > {log}', "-"],
    )  # fmt: skip
    server.wait_live(1)
    client = server.client()
    headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "Content-Type": "application/json"}
    reply = client.request("POST", "/predict", json.dumps({"inputs": [ROW]}).encode(), headers)
    assert reply.status == 200, reply.body
    (place / "head").write_text("".join(f"{name}: {value}\n" for name, value in reply.headers.items()))
    attest = ["--store", tmp_path / "store", "--key", team, "-o", place / "model.json"]
    run("serve", "attest", *attest)
    return place, tmp_path / "store"


def follow(place, store, *more, answer="head", code=0):
    keys = ["--key", place / "trainer.pub", "--key", place / "team.pub"]
    statements = [each for path in sorted(place.glob("*.json")) for each in ("--statement", path)]
    arguments = ["--store", store, *keys, *statements, "--lock", place / "conda-lock.yml", "--json", *more]
    links = json.loads(run("serve", "trace", place / answer, *arguments, code=code))
    return {link["name"]: link["verdict"] for link in links}


def test_every_link_is_verified_and_a_flipped_byte_is_named(chain):
    place, store = chain
    # What a lock was made from is stated by `envtool lock --attest`; here by the same function, without a solve.
    from envtool.signing import attestation

    stated = attestation.provenance(place / "conda-lock.yml", [place / "conda-lock.yml"], {})
    attestation.write(place / "lock.json", stated, place / "team.pem")
    assert follow(place, store) == dict.fromkeys(LINKS, "verified")
    assert follow(place, store, "--request", "ab" * 16, answer="access.log") == dict.fromkeys(LINKS, "verified")
    # Years later: no store, no lock.
    gone = follow(place, place / "nothing")
    assert [gone[name] for name in ("generation", "checkpoint", "publisher")] == ["unknown"] * 3
    ledger = store / "generations.jsonl"
    checkpoint = next((store / "sha256").iterdir())
    entry = json.loads(ledger.read_text())
    flips = {
        "generation": (ledger, entry["sha256"][:8].encode()),
        "checkpoint": (checkpoint, None),
        "publisher": (ledger, b"dsseEnvelope"),
        "gates": (ledger, entry["committed"].encode()),
        "lock": (place / "conda-lock.yml", b"created_by"),
        "packages": (place / "conda-lock.yml", json.loads(stated_packages(place))[0]["sha256"][:8].encode()),
        "statement": (place / "env.json", b'"payload": "'),
        "answer": (place / "head", b"X-Model-SHA256: "),
    }
    for name, (path, before) in flips.items():
        content = path.read_bytes()
        at = (
            len(content) - 1
            if before is None
            else content.lower().index(before.lower()) + len(before) + (0 if before.endswith((b" ", b'"')) else -1)
        )
        path.chmod(0o644)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        found = follow(place, store, code=1)
        failed = {each for each, verdict in found.items() if verdict == "failed"}
        assert name in failed or (name == "answer" and failed), (name, found)
        path.write_bytes(content)
    assert follow(place, store) == dict.fromkeys(LINKS, "verified")
    assert set(follow(place, store, "--statement", place / "head", code=1)) >= {"statement"}
    shutil.rmtree(place / "env")


def stated_packages(place):
    import base64

    payload = base64.b64decode(json.loads((place / "env.json").read_text())["payload"])
    return json.dumps(json.loads(payload)["predicate"]["packages"])
