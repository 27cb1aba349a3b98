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
