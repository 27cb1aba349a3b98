"""From an answer of a real server to every byte that made it, and one flipped byte in each link."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT
from trainer import ROW

from serve import durable_files
from serve.checkpoint.signature import load_key
from serve.errors import ServeError, SignatureError
from serve.operations.trace import Evidence, read_answer, trace
from serve.publishing.publish import Extras, publish
from serve.store.ledger import Entry
from tests.support.archives import Archive, File, lock_of, locked

pytestmark = pytest.mark.needs_torch
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="the extra [sign]")
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


def meaning_of(path, content):
    """What a file states, by which a byte matters or does not: spaces and key ids of envelopes do not."""
    try:
        if path.suffix == ".pub":
            return load_key(path, is_private=False, takes_ecdsa=True).public_bytes(*DER)
        value = json.loads(content) if path.suffix in (".json", ".jsonl") else None
        if path.suffix == ".jsonl":  # a key that is lost may have had its default
            return durable_files.from_known(Entry, value) if content.endswith(b"\n") else content
        if path.suffix == ".json" and "payload" in value:
            sigs = [base64.b64decode(each["sig"]) for each in value["signatures"]]
            return value["payloadType"], base64.b64decode(value["payload"]), sigs
    except (ValueError, KeyError, TypeError, SignatureError):
        return content
    if path.name == "head":
        lines = (line.partition(b":") for line in content.splitlines())
        return {name.strip().lower(): text.strip() for name, _, text in lines if name.strip().lower() in HEADERS}
    return content if value is None else value


DER = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
HEADERS = (b"x-model-generation", b"x-model-sha256", b"x-model-version", b"x-env-digest")


def test_no_flipped_byte_of_the_chain_is_verified(chain):
    """Every file of the chain, with one bit flipped at many places of it: something is not verified then, what failed
    names the file, and what cannot be read at all is refused by a known error."""
    place, store = chain
    from envtool.signing import attestation

    stated = attestation.provenance(place / "conda-lock.yml", [place / "conda-lock.yml"], {})
    attestation.write(place / "lock.json", stated, place / "team.pem")
    run("serve", "bom", "--store", store, "-o", place / "service.cdx")
    keys = (place / "trainer.pub", place / "team.pub")
    statements = tuple(place / name for name in ("env.json", "model.json", "lock.json"))
    evidence = Evidence(store, keys, statements, place / "conda-lock.yml", None, place / "service.cdx")

    def verdicts():
        try:
            links = trace(read_answer((place / "head").read_text(errors="replace")), evidence)
        except ServeError as error:
            return error
        return {link.name: link for link in links}

    assert {link.verdict for link in verdicts().values()} == {"verified"}
    checkpoint = next((store / "sha256").iterdir())
    named = {
        place / "conda-lock.yml": ("lock",), place / "service.cdx": ("bill",), checkpoint: ("checkpoint",),
        store / "generations.jsonl": ("generation", "publisher", "gates"), place / "head": (),
        **dict.fromkeys(statements, ("statement",)), **dict.fromkeys(keys, ("statement", "publisher")),
    }  # fmt: skip
    tried = missed = 0
    for path, links in named.items():
        content = path.read_bytes()
        path.chmod(0o644)
        for at in range(0, len(content), max(1, len(content) // 400)):
            for bit in (0, 7):
                altered = content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
                path.write_bytes(altered)
                if meaning_of(path, altered) == meaning_of(path, content):
                    missed += 1
                    continue
                tried += 1
                found = verdicts()
                if isinstance(found, ServeError):
                    assert path.name in str(found) or path.name == "head", (path, at, found)
                    continue
                failed = {name for name, link in found.items() if link.verdict == "failed"}
                assert any(link.verdict != "verified" for link in found.values()), (
                    path,
                    at,
                    bit,
                    altered[at - 40 : at + 40],
                )
                assert not links or failed & {*links}, (path, at, bit, found)
        path.write_bytes(content)
    assert tried > 4000 > missed
    assert {link.verdict for link in verdicts().values()} == {"verified"}


def stated_packages(place):
    payload = base64.b64decode(json.loads((place / "env.json").read_text())["payload"])
    return json.dumps(json.loads(payload)["predicate"]["packages"])
