"""What a trace makes of statements that are about something else."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("cryptography")

from envserve import dsse
from serve.checkpoint.signature import load_key
from serve.operations.trace import Evidence, trace


def test_a_signed_statement_of_another_kind_is_passed_over(tmp_path):
    _, private, public = dsse.generate()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    stated = {"_type": dsse.STATEMENT_TYPE, "predicateType": "https://example.org/review", "subject": [{"name": "a"}]}
    sealed = dsse.seal(stated, load_key(tmp_path / "key", is_private=True))
    (tmp_path / "review.json").write_text(json.dumps(sealed))
    evidence = Evidence(None, (tmp_path / "key.pub",), (tmp_path / "review.json",), None, None)
    assert {link.verdict for link in trace({"sha256": "ab" * 32}, evidence)} == {"verified", "unknown"}
