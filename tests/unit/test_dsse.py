"""Keys and signed statements in both halves: one file, twice; judged by the programs of others."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import make_environment

ROOT = Path(__file__).parents[2]
pytest.importorskip("cryptography")


def test_both_halves_have_the_same_file() -> None:
    ours, theirs = ROOT / "envtool/signing/dsse.py", ROOT / "serve/checkpoint/dsse.py"
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(ours.read_text().splitlines()) < 180


def test_a_key_of_one_half_is_read_by_the_other_and_checks_its_signature(tmp_path: Path) -> None:
    from envtool.signing import dsse as ours
    from serve.checkpoint import dsse as theirs

    public, private_pem, public_pem = theirs.generate()
    (tmp_path / "key").write_bytes(private_pem)
    (tmp_path / "key.pub").write_bytes(public_pem)
    signature = ours.load(tmp_path / "key", is_private=True).sign(b"content")
    read = theirs.load(tmp_path / "key.pub", is_private=False)
    assert theirs.is_valid(read, signature, b"content")
    assert not theirs.is_valid(read, signature, b"another")
    assert not theirs.is_valid(read, b"", b"content")
    assert ours.key_id(public) == theirs.key_id(read)


def keys(directory: Path, kind: str) -> tuple[Path, Path]:
    private, public = directory / f"{kind}.pem", directory / f"{kind}.pub"
    options = [] if kind == "ed25519" else ["-pkeyopt", f"ec_paramgen_curve:{kind}"]
    algorithm = "ed25519" if kind == "ed25519" else "EC"
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, *options, "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


@pytest.mark.parametrize("kind", ["ed25519", "P-256", "P-384"])
def test_an_envelope_is_read_by_securesystemslib_and_refused_after_any_change(tmp_path: Path, kind: str) -> None:
    from envtool.signing import dsse

    private, public = keys(tmp_path, kind)
    stated = dsse.statement("https://example.org/predicate", {"größe": "ab" * 32}, {"a": [1, "ü"]})
    envelope = dsse.seal(stated, dsse.load(private, is_private=True, takes_ecdsa=True))
    key = dsse.load(public, is_private=False, takes_ecdsa=True)
    assert dsse.unseal(json.loads(json.dumps(envelope)), [key]) == stated
    (tmp_path / "envelope.json").write_text(json.dumps(envelope))
    python = make_environment(["securesystemslib[crypto]==1.3.0", "in-toto-attestation==0.9.3"])
    done = subprocess.run([python, "-c", JUDGE, tmp_path / "envelope.json", public], capture_output=True, text=True)
    assert done.stdout.strip() == "https://example.org/predicate", done.stderr
    for name in ("payload", "sig"):
        altered = json.loads(json.dumps(envelope))
        place = altered if name == "payload" else altered["signatures"][0]
        content = bytearray(base64.b64decode(place[name]))
        content[len(content) // 2] ^= 1
        place[name] = base64.b64encode(content).decode()
        with pytest.raises(ValueError, match="signature by"):
            dsse.unseal(altered, [key])
    for altered in ({}, {**envelope, "payloadType": "text/plain"}, {**envelope, "signatures": []}):
        with pytest.raises(ValueError, match="expected"):
            dsse.unseal(altered, [key])


JUDGE = """
import json, sys
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Proto
from google.protobuf.json_format import Parse
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
value = json.load(open(sys.argv[1]))
key = SSlibKey.from_crypto(load_pem_public_key(open(sys.argv[2], "rb").read()), value["signatures"][0]["keyid"])
envelope = Envelope.from_dict(value)
envelope.verify([key], 1)
statement = Statement.copy_from_pb(Parse(envelope.payload, Proto()))
statement.validate()
print(statement.pb.predicate_type)
"""


SIGSTORE = """
import pathlib, sys
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sigstore import dsse
from sigstore._utils import sha256_digest
envelope = dsse.Envelope._from_json(pathlib.Path(sys.argv[1]).read_bytes())
statement = dsse.Statement(dsse._verify(load_pem_public_key(pathlib.Path(sys.argv[2]).read_bytes()), envelope))
print(statement._inner.predicate_type)
with open(sys.argv[3], "rb") as file:
    print(statement._matches_digest(sha256_digest(file)))
"""


def test_sigstores_own_library_reads_an_envelope_and_finds_its_file(tmp_path: Path) -> None:
    """As `cosign verify-blob-attestation --key` does: one signature, of the PAE, in an envelope of in-toto's type, and
    a subject that has the sha256 of the file. cosign itself is in no registry that tests may ask."""
    from envtool.signing import dsse

    private, public = keys(tmp_path, "P-256")
    lock = tmp_path / "conda-lock.yml"
    lock.write_text("version: 1\n")
    stated = dsse.statement(
        "https://slsa.dev/provenance/v1", {lock.name: hashlib.sha256(lock.read_bytes()).hexdigest()}, {}
    )
    envelope = tmp_path / "lock.dsse.json"
    envelope.write_text(json.dumps(dsse.seal(stated, dsse.load(private, is_private=True, takes_ecdsa=True))) + "\n")
    python = make_environment(["sigstore>=3.6,<5"])

    def judge() -> str:
        argv = [str(python), "-c", SIGSTORE, str(envelope), str(public), str(lock)]
        return subprocess.run(argv, capture_output=True, text=True).stdout

    assert judge() == "https://slsa.dev/provenance/v1\nTrue\n"
    lock.write_text("version: 2\n")
    assert judge() == "https://slsa.dev/provenance/v1\nFalse\n"
    content = envelope.read_bytes()
    envelope.write_bytes(content.replace(b'"sig": "ME', b'"sig": "NE'))
    assert judge() == ""


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    from envtool.signing import dsse

    private, _ = keys(tmp_path, "P-256")
    with pytest.raises(dsse.KeyFileError, match="expected an Ed25519 private key"):
        dsse.load(private, is_private=True)
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", tmp_path / "rsa.pem"], check=True)
    with pytest.raises(dsse.KeyFileError, match="expected an Ed25519 or ECDSA private key"):
        dsse.load(tmp_path / "rsa.pem", is_private=True, takes_ecdsa=True)


@pytest.mark.parametrize("kind", ["ed25519", "P-256"])
def test_the_documented_lines_check_an_envelope_with_openssl_alone(tmp_path: Path, kind: str) -> None:
    from envtool.signing import dsse

    private, public = keys(tmp_path, kind)
    key = dsse.load(private, is_private=True, takes_ecdsa=True)
    envelope = dsse.seal(dsse.statement("https://example.org/p", {"x": "ab" * 32}, {"größe": 1}), key)
    page = (ROOT / "docs/how-to/attest.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0]
    assert len(script.splitlines()) <= 10

    def check() -> subprocess.CompletedProcess[str]:
        named = script.replace("team.pub", public.name)
        return subprocess.run(["sh", "-c", named], cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "env.dsse.json").write_text(json.dumps(envelope) + "\n")
    done = check()
    assert done.returncode == 0, done.stderr
    assert '"größe": 1' in done.stdout
    payload = base64.b64decode(envelope["payload"]).replace(b"ab", b"ba")
    (tmp_path / "env.dsse.json").write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    assert check().returncode != 0
