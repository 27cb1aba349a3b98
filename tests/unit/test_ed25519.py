"""Ed25519 in both halves: one file, twice."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("cryptography")


def test_both_halves_have_the_same_file() -> None:
    ours, theirs = ROOT / "envtool/signing/ed25519.py", ROOT / "serve/checkpoint/ed25519.py"
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(ours.read_text().splitlines()) < 130


def test_a_key_of_one_half_is_read_by_the_other_and_checks_its_signature(tmp_path: Path) -> None:
    from envtool.signing import ed25519 as ours
    from serve.checkpoint import ed25519 as theirs

    public, private_pem, public_pem = theirs.generate()
    (tmp_path / "key").write_bytes(private_pem)
    (tmp_path / "key.pub").write_bytes(public_pem)
    signature = ours.load(tmp_path / "key", is_private=True).sign(b"content")
    read = theirs.load(tmp_path / "key.pub", is_private=False)
    assert theirs.is_valid(read, signature, b"content")
    assert not theirs.is_valid(read, signature, b"another")
    assert not theirs.is_valid(read, b"", b"content")
    assert ours.key_id(public) == theirs.key_id(read)
