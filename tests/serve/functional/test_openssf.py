"""Model signatures of the OpenSSF, with `model_signing` as the other side."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy
import pytest
from safetensors.numpy import save_file

from serve.checkpoint.manifest import parse_marker
from serve.checkpoint.signature import Verifier
from serve.errors import CheckpointError
from serve.publishing.publish import Extras, publish
from serve.source.local import LocalSource
from tests.support.environments import make_environment

pytest.importorskip("cryptography", reason="the extra [sign] is not installed")


@pytest.fixture
def keys(tmp_path):
    def make(name):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run(["openssl", "genpkey", *curve, "-out", private], check=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        return private, public

    return make


@pytest.fixture
def weights(tmp_path):
    save_file({"w": numpy.ones(3, numpy.float32)}, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def model_signing(*arguments):
    if sys.version_info < (3, 10):
        pytest.skip("model-signing needs Python 3.10")
    program = make_environment(["model-signing==1.1.1", "pyOpenSSL"]).with_name("model_signing")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def observed(directory):
    return next(iter(LocalSource(directory).observe()))


def test_theirs_accepts_what_we_sign(tmp_path, keys, weights):
    private, public = keys("trainer")
    place = tmp_path / "checkpoints"
    published = publish(weights, place, extras=Extras(openssf_key=private))
    checkpoint, signature = place / "weights.safetensors", place / "weights.safetensors.sig"
    verify = ["verify", "key", "--public_key", public, "--signature", signature, checkpoint]
    done = model_signing(*verify)
    assert done.returncode == 0, done.stderr
    manifest = parse_marker(observed(place).text)
    Verifier([public]).require(manifest.stated)
    for other in ({"sha256": "0" * 64}, {"openssf": {}}):
        with pytest.raises(CheckpointError, match="OpenSSF"):
            Verifier([public]).require({**manifest.stated, **other})
    with pytest.raises(CheckpointError, match="signature by"):
        Verifier([keys("other")[1]]).require(manifest.stated)
    checkpoint.write_bytes(checkpoint.read_bytes() + b"x")
    assert model_signing(*verify).returncode != 0
    # What is published without a signature leaves none of the one before.
    publish(weights, place)
    assert not signature.exists()
    assert published.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("marker", ["", "sha256sum", "json"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_what_they_sign_is_accepted(tmp_path, keys, weights, marker, is_whole):
    private, public = keys("trainer")
    place = tmp_path / "checkpoints"
    place.mkdir()
    checkpoint = place / "m.safetensors"
    weights.rename(checkpoint)
    signed, signature = (place, place / "model.sig") if is_whole else (checkpoint, place / "m.safetensors.sig")
    done = model_signing("sign", "key", "--private_key", private, "--signature", signature, signed)
    assert done.returncode == 0, done.stderr
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    texts = {"": "", "sha256sum": f"{sha256}  m.safetensors\n", "json": json.dumps({"sha256": sha256, "version": "7"})}
    (place / "m.safetensors.done").write_text(texts[marker])
    manifest = parse_marker(observed(place).text)
    Verifier([public]).require(manifest.stated)
    assert manifest.sha256 == sha256  # the gate compares it with what was read
    # Of another checkpoint it is none: what is signed is the bytes that are named.
    (place / "m.safetensors.done").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="OpenSSF"):
        Verifier([public]).require(parse_marker(observed(place).text).stated)
    signature.write_text("{")
    assert observed(place).text == (place / "m.safetensors.done").read_bytes()
