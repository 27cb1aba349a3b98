"""What a trace makes of statements that are about something else."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("cryptography")

from serve.checkpoint import dsse
from serve.checkpoint.manifest import manifest_of, publisher_of
from serve.checkpoint.signature import load_key
from serve.operations.trace import CHECKPOINT, ENVIRONMENT, Evidence, read_answer, trace


@pytest.mark.parametrize("kind", [CHECKPOINT, ENVIRONMENT])
@pytest.mark.parametrize("subject", [[{"name": "a", "digest": {"sha256": "ab" * 32}}], ["a"], [{"name": "a"}]])
def test_a_signed_statement_of_another_form_fails(tmp_path, kind, subject):
    _, private, public = dsse.generate()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    stated = {"_type": dsse.STATEMENT_TYPE, "predicateType": kind, "subject": subject, "predicate": {"entry": []}}
    sealed = dsse.seal(stated, load_key(tmp_path / "key", is_private=True))
    (tmp_path / "odd.json").write_text(json.dumps(sealed))
    evidence = Evidence(None, (tmp_path / "key.pub",), (tmp_path / "odd.json",), None, None)
    answer = {"sha256": "ab" * 32, "env_digest": "ab" * 32}
    failed = [link for link in trace(answer, evidence) if link.verdict == "failed"]
    assert [link.name for link in failed] == [{CHECKPOINT: "gates", ENVIRONMENT: "environment"}[kind]]


@pytest.mark.parametrize("material", [[1], {"publicKey": []}, "x", {}])
def test_a_marker_with_an_odd_signature_has_a_publisher_that_no_key_is_of(material):
    marker = json.dumps({"sha256": "ab" * 32, "openssf": {"verificationMaterial": material}})
    assert publisher_of(manifest_of(marker)) == "openssf:None"


def test_a_log_with_lines_that_were_cut_off_is_read():
    line = json.dumps({"trace_id": "t", "sha256": "ab" * 32, "generation": 1})
    assert read_answer(f'{{"trace_id": "t", "sh\n{line}\n{{"t', "t") == {"sha256": "ab" * 32, "generation": "1"}


def test_a_signed_statement_of_another_kind_is_passed_over(tmp_path):
    _, private, public = dsse.generate()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    stated = {"_type": dsse.STATEMENT_TYPE, "predicateType": "https://example.org/review", "subject": [{"name": "a"}]}
    sealed = dsse.seal(stated, load_key(tmp_path / "key", is_private=True))
    (tmp_path / "review.json").write_text(json.dumps(sealed))
    evidence = Evidence(None, (tmp_path / "key.pub",), (tmp_path / "review.json",), None, None)
    assert {link.verdict for link in trace({"sha256": "ab" * 32}, evidence)} == {"unknown"}


NESTED = 100_000 * b"[" + 100_000 * b"]"


@pytest.mark.parametrize("content", [None, NESTED, b"\xff" + 10_000 * b"x", b"{}"])
def test_evidence_that_cannot_be_read_fails_by_its_name(tmp_path, content):
    path, (_, _, public) = tmp_path / "evidence", dsse.generate()
    (tmp_path / "key.pub").write_bytes(public)
    if content is not None:
        path.write_bytes(content)
    checkpoint = path if content is None else None
    evidence = Evidence(None, (tmp_path / "key.pub",), (path,), None, checkpoint, path)
    failed = {link.name: link.detail for link in trace({"sha256": "ab" * 32}, evidence) if link.verdict == "failed"}
    assert failed.keys() == {"statement", "bill"} | ({"checkpoint"} if checkpoint else set())
    assert all("evidence" in detail and len(detail) < 400 + len(str(path)) for detail in failed.values())


def test_a_statement_that_is_not_there_fails_without_a_key_too(tmp_path):
    evidence = Evidence(None, (), (tmp_path / "gone.json",), None, None)
    links = trace({"sha256": "ab" * 32}, evidence)
    (failed,) = (link for link in links if link.verdict == "failed")
    assert (failed.name, failed.detail[:21]) == ("statement", "gone.json: [Errno 2] ")


def test_a_lock_that_is_not_there_fails_and_what_needs_it_is_followed(tmp_path):
    _, private, public = dsse.generate()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    package = {"name": "a", "sha256": "cd" * 32, "manager": "conda", "url": "https://example.org/linux-64/a.conda"}
    lock = {"name": "conda-lock.yml", "sha256": "ef" * 32}
    predicate = {"verdict": {"is_equal": True}, "lock": lock, "packages": [package]}
    stated = dsse.statement(ENVIRONMENT, {"env": "ab" * 32}, predicate)
    sealed = dsse.seal(stated, load_key(tmp_path / "key", is_private=True))
    (tmp_path / "env.json").write_text(json.dumps(sealed))
    evidence = Evidence(None, (tmp_path / "key.pub",), (tmp_path / "env.json",), tmp_path / "no-lock")
    links = {link.name: link for link in trace({"sha256": "12" * 32, "env_digest": "ab" * 32}, evidence)}
    assert (links["lock"].verdict, links["packages"].verdict) == ("failed", "verified")
    assert "no-lock: No such file" in links["lock"].detail


def test_a_log_with_a_line_that_nests_without_end_is_read():
    line = json.dumps({"trace_id": "t", "sha256": "ab" * 32})
    assert read_answer('{"t": ' + NESTED.decode() + "}\n" + line, "t") == {"sha256": "ab" * 32}
