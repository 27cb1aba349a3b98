"""Ed25519 signatures over a manifest, and thereby over the bytes that its sha256 names.

What is signed is the text `envserve-manifest-v1`, a line feed, and the manifest without its key `signature` as JSON
with sorted keys, no white space and no escapes beyond those that JSON demands, in UTF-8. The signature is an object:

    {"algorithm": "ed25519", "key": "<first 16 hexadecimal digits of the sha256 of the raw public key>",
     "value": "<64 bytes in base64>"}

Needs the extra `[sign]`, and imports it only when something is signed or verified. Who may hold which key, and how keys
are withdrawn, is out of scope.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.errors import CheckpointError, SignatureError

ALGORITHM = "ed25519"
_DOMAIN = b"envserve-manifest-v1\n"
_NEEDS = "install envserve with its extra [sign]"


def signed_bytes(stated: Mapping[str, object]) -> bytes:
    """Return what a signature of a manifest covers."""
    covered = {key: value for key, value in stated.items() if key != "signature"}
    return _DOMAIN + json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(stated: Mapping[str, object], key_file: Path) -> dict[str, str]:
    """Sign a manifest.

    Raises:
        SignatureError: the key cannot be used.
    """
    key = _load(key_file, is_private=True)
    value = base64.b64encode(key.sign(signed_bytes(stated))).decode()
    return {"algorithm": ALGORITHM, "key": key_id(key.public_key()), "value": value}


class Verifier:
    """Verifies signatures with the public keys that the settings name.

    Args:
        key_files: public keys in PEM; several, so that one key can follow another.

    Raises:
        SignatureError: a key cannot be used.
    """

    def __init__(self, key_files: Sequence[Path]) -> None:
        keys = [_load(path, is_private=False) for path in key_files]
        self._keys = {key_id(key): key for key in keys}

    def require(self, stated: Mapping[str, object]) -> None:
        """Refuse a manifest that none of the keys has signed.

        Raises:
            CheckpointError: the signature is missing, of an unknown key, or of another manifest.
        """
        signature = stated.get("signature")
        if not isinstance(signature, Mapping) or signature.get("algorithm") != ALGORITHM:
            raise CheckpointError("signature", f"the signature: expected one by {ALGORITHM}, found none")
        key = self._keys.get(str(signature.get("key")))
        if key is None:
            known = ", ".join(sorted(self._keys))
            raise CheckpointError("signature", f"the key: expected {known}, found {str(signature.get('key'))[:80]!r}")
        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(base64.b64decode(str(signature.get("value")), validate=True), signed_bytes(stated))
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise CheckpointError("signature", "the signature: expected one of this manifest, found another") from error


def key_id(public_key: Any) -> str:
    """Return the short name of a public key."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def write_keys(key_file: Path) -> tuple[Path, str]:
    """Make a new pair of keys.

    Args:
        key_file: gets the private key, for its owner only; the public one goes beside it with the suffix `.pub`.

    Returns:
        The file of the public key, and its short name.

    Raises:
        SignatureError: a file is there already, or cannot be written.
    """
    serialization, ed25519 = _import()
    private = ed25519.Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    public_file = key_file.with_name(key_file.name + ".pub")
    _write_new(key_file, private.private_bytes(pem, pkcs8, serialization.NoEncryption()), 0o600)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    _write_new(public_file, private.public_key().public_bytes(pem, spki), 0o644)
    return public_file, key_id(private.public_key())


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(content)
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror}", hint="name a new file") from error


def _load(path: Path, is_private: bool) -> Any:
    kind = "private" if is_private else "public"
    serialization, ed25519 = _import()
    try:
        text = path.read_bytes()
        key: Any = (
            serialization.load_pem_private_key(text, None) if is_private else serialization.load_pem_public_key(text)
        )
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror}", hint="make keys with: python -m serve keygen") from error
    except (ValueError, TypeError) as error:
        raise SignatureError(f"{path}: expected a {kind} key in PEM ({error})") from error
    wanted = ed25519.Ed25519PrivateKey if is_private else ed25519.Ed25519PublicKey
    if not isinstance(key, wanted):
        raise SignatureError(f"{path}: expected an Ed25519 {kind} key, found {type(key).__name__}")
    return key


def _import() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SignatureError(f"cryptography cannot be imported: {error}", hint=_NEEDS) from error
    return serialization, ed25519
