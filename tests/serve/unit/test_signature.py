from __future__ import annotations

import json
import stat
import subprocess
import sys

import pytest

from serve.errors import CheckpointError, SignatureError

pytest.importorskip("cryptography", reason="the extra [sign] is not installed")

from serve.checkpoint.signature import Verifier, sign, signed_bytes, write_keys

STATED = {"sha256": "ab" * 32, "size": 5, "version": "größe", "golden": [{"inputs": [1.5], "outputs": [2]}], "by": "me"}


@pytest.fixture
def key(tmp_path):
    write_keys(tmp_path / "key")
    return tmp_path / "key"


def public(key):
    return key.with_name(key.name + ".pub")


def refused(verifier, stated):
    with pytest.raises(CheckpointError) as caught:
        verifier.require(stated)
    assert caught.value.code == "signature"
    return caught.value.message


def test_what_is_signed_is_exactly_this():
    text = b'envserve-manifest-v1\n{"a":[1,2.5],"b":"\xc3\xbc"}'
    assert signed_bytes({"b": "ü", "signature": {"value": "x"}, "a": [1, 2.5]}) == text


def test_a_signed_manifest_is_accepted_after_json(key):
    marker = json.dumps({**STATED, "signature": sign(STATED, key)})
    Verifier([public(key)]).require(json.loads(marker))


@pytest.mark.parametrize("name", [*STATED, "new"])
def test_any_change_is_refused(key, name):
    altered = {**STATED, "signature": sign(STATED, key), name: "other"}
    assert "expected one of this manifest" in refused(Verifier([public(key)]), altered)


def test_what_is_no_signature_is_refused(key):
    signature = sign(STATED, key)
    verifier = Verifier([public(key)])
    for other in (None, {}, {**signature, "algorithm": "none"}):
        assert "found none" in refused(verifier, {**STATED, "signature": other})
    for value in ("", "AAAA", "not base64!", None, signature["value"][:-4]):
        refused(verifier, {**STATED, "signature": {**signature, "value": value}})


def test_a_key_can_follow_another(key, tmp_path):
    write_keys(tmp_path / "next")
    signed = {**STATED, "signature": sign(STATED, tmp_path / "next")}
    assert "the key: expected" in refused(Verifier([public(key)]), signed)
    Verifier([public(key), public(tmp_path / "next")]).require(signed)


def test_the_private_key_is_for_its_owner_and_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    with pytest.raises(SignatureError, match="File exists"):
        write_keys(key)
    assert key.read_bytes() == before


def test_keys_that_cannot_be_used(key, tmp_path):
    other = tmp_path / "text"
    other.write_text("no key")
    for path in (other, key, tmp_path / "nowhere"):
        with pytest.raises(SignatureError, match=path.name):
            Verifier([path])
    with pytest.raises(SignatureError, match="private key"):
        sign(STATED, public(key))


def test_without_cryptography_it_is_said_what_to_install(key):
    code = "import sys; sys.modules['cryptography'] = None; from serve.checkpoint.signature import *\n"
    code += "try: Verifier([Path(sys.argv[1])])\nexcept SignatureError as e: print(e.hint)"
    shown = subprocess.run([sys.executable, "-c", code, str(public(key))], stdout=-1, text=True, check=True).stdout
    assert "[sign]" in shown
