"""Ed25519 signatures over a manifest, and thereby over the bytes that its sha256 names.

`docs/reference/checkpoints.md` states what exactly is signed, and where a signature of the OpenSSF (`model_signing sign
key`) lies, which covers the bytes of the checkpoint and nothing else of the marker. Out of scope: who may hold which
key, how keys are withdrawn. Source: OpenSSF Model Signing 1.0; Sigstore bundle 0.3."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.checkpoint import dsse
from serve.checkpoint.manifest import read_object
from serve.errors import CheckpointError, SignatureError

ALGORITHM = "ed25519"
OPENSSF, SIDECARS = "openssf", (".sig", "model.sig")
_DOMAIN = b"envserve-manifest-v1\n"
_PREDICATE = "https://model_signing/signature/v1.0"
_LARGEST_BUNDLE_BYTES = 1 << 20
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def signed_bytes(stated: Mapping[str, object]) -> bytes:
    """Return what a signature of a manifest covers."""
    covered = {key: value for key, value in stated.items() if key not in ("signature", OPENSSF)}
    return _DOMAIN + json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(stated: Mapping[str, object], key_file: Path) -> dict[str, str]:
    """Return the value of the key `signature`, made with an Ed25519 key in PEM; raises `SignatureError` for another."""
    key = load_key(key_file, is_private=True)
    value = base64.b64encode(key.sign(signed_bytes(stated))).decode()
    return {"algorithm": ALGORITHM, "key": dsse.key_id(key.public_key()), "value": value}


def sign_openssf(name: str, sha256: str, key_file: Path) -> dict[str, object]:
    """Return a Sigstore bundle for `model_signing verify key`, by an ECDSA key in PEM; raises `SignatureError`."""
    key = load_key(key_file, is_private=True, takes_ecdsa=True)
    hint = dsse.pem_sha256(key.public_key())
    resources = [{"name": ".", "algorithm": "sha256", "digest": sha256}]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    root = hashlib.sha256(bytes.fromhex(sha256)).hexdigest()
    stated = dsse.statement(_PREDICATE, {name: root}, {"resources": resources, "serialization": serialization})
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    return {"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": dsse.seal(stated, key)}


def with_bundle(text: bytes, path: Path) -> bytes:
    """Return a marker with the readable OpenSSF signature that lies beside its checkpoint, and the sha256 it states."""
    for name in (path.name + SIDECARS[0], SIDECARS[1]):
        try:
            with path.with_name(name).open("rb") as reader:
                bundle = json.loads(reader.read(_LARGEST_BUNDLE_BYTES))
            stated = read_object(text)
            signed = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]["resources"]
            named = {str(file["name"]): str(file["digest"]) for file in signed}
        except (OSError, ValueError, KeyError, TypeError, CheckpointError):
            continue
        if OPENSSF not in stated and (path.name in named or "." in named):
            sha256 = {"sha256": named.get(path.name, named.get("."))}
            return json.dumps({**sha256, **stated, OPENSSF: bundle}).encode()
    return text


class Verifier:
    """Verifies signatures with any of several public keys in PEM, so that one key can follow another."""

    def __init__(self, key_files: Sequence[Path]) -> None:
        keys = [load_key(path, is_private=False, takes_ecdsa=True) for path in key_files]
        self._keys = {dsse.key_id(key): key for key in keys}

    def require(self, stated: Mapping[str, object]) -> None:
        """Refuse a manifest that none of the keys has signed; raises `CheckpointError`."""
        signature, bundle = stated.get("signature"), stated.get(OPENSSF)
        if signature is None and isinstance(bundle, Mapping):
            return self._require_openssf(bundle, stated.get("sha256"))
        if not isinstance(signature, Mapping) or signature.get("algorithm") != ALGORITHM:
            raise CheckpointError("signature", f"the signature: expected one by {ALGORITHM}, found none")
        key = self._keys.get(str(signature.get("key")))
        if key is None:
            known = ", ".join(sorted(self._keys))
            raise CheckpointError("signature", f"the key: expected {known}, found {str(signature.get('key'))[:80]!r}")
        try:
            value = base64.b64decode(str(signature.get("value")), validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if not dsse.is_valid(key, value, signed_bytes(stated)):
            raise CheckpointError("signature", "the signature: expected one of this manifest, found another")
        return None

    def _require_openssf(self, bundle: Mapping[str, object], sha256: object) -> None:
        try:
            signed = dsse.unseal(bundle["dsseEnvelope"], list(self._keys.values()))  # type: ignore[arg-type]
            digests = {(resource["algorithm"], resource["digest"]) for resource in signed["predicate"]["resources"]}
            kind = signed["predicateType"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError("signature", f"the OpenSSF signature: {error}") from error
        if kind != _PREDICATE or ("sha256", sha256) not in digests:
            raise CheckpointError("signature", f"the OpenSSF signature: expected one of {sha256}, found one of another")


def write_keys(key_file: Path) -> tuple[Path, str]:
    """Make new keys, the private one for its owner only; return the public one's file and short name."""
    with _errors_of_keys():
        public, private_pem, public_pem = dsse.generate()
    public_file = key_file.with_name(key_file.name + ".pub")
    _write_new(key_file, private_pem, 0o600)
    _write_new(public_file, public_pem, 0o644)
    return public_file, dsse.key_id(public)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(content)
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror}", hint="name a new file") from error


def load_key(path: Path, *, is_private: bool, takes_ecdsa: bool = False) -> Any:
    """Read a key in PEM. Raises SignatureError if it cannot be used."""
    with _errors_of_keys():
        return dsse.load(path, is_private=is_private, takes_ecdsa=takes_ecdsa)


@contextmanager
def _errors_of_keys() -> Iterator[None]:
    try:
        yield
    except dsse.KeyFileError as error:
        raise SignatureError(str(error), hint=error.hint or "make keys with: python -m serve keygen") from error
