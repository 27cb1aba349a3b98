"""Ed25519 signatures over a manifest, and thereby over the bytes that its sha256 names.

What is signed is the text `envserve-manifest-v1`, a line feed, and the manifest without its key `signature` as JSON
with sorted keys, no white space and no escapes beyond those that JSON demands, in UTF-8. The signature is an object:

    {"algorithm": "ed25519", "key": "<first 16 hexadecimal digits of the sha256 of the raw public key>",
     "value": "<64 bytes in base64>"}

Out of scope: who may hold which key, and how keys are withdrawn.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.checkpoint import ed25519
from serve.errors import CheckpointError, SignatureError

ALGORITHM = "ed25519"
_DOMAIN = b"envserve-manifest-v1\n"


def signed_bytes(stated: Mapping[str, object]) -> bytes:
    """Return what a signature of a manifest covers.

    Args:
        stated: the marker's JSON object.
    """
    covered = {key: value for key, value in stated.items() if key != "signature"}
    return _DOMAIN + json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(stated: Mapping[str, object], key_file: Path) -> dict[str, str]:
    """Sign a manifest.

    Args:
        stated: the marker's JSON object.
        key_file: a private key in PEM, as `write_keys` makes it.

    Returns:
        The value of the key `signature`.

    Raises:
        SignatureError: the key cannot be used.
    """
    key = _load(key_file, is_private=True)
    value = base64.b64encode(key.sign(signed_bytes(stated))).decode()
    return {"algorithm": ALGORITHM, "key": ed25519.key_id(key.public_key()), "value": value}


class Verifier:
    """Verifies signatures with the public keys that the settings name.

    Args:
        key_files: public keys in PEM; several, so that one key can follow another.

    Raises:
        SignatureError: a key cannot be used.
    """

    def __init__(self, key_files: Sequence[Path]) -> None:
        keys = [_load(path, is_private=False) for path in key_files]
        self._keys = {ed25519.key_id(key): key for key in keys}

    def require(self, stated: Mapping[str, object]) -> None:
        """Refuse a manifest that none of the keys has signed.

        Args:
            stated: the marker's JSON object.

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
        try:
            value = base64.b64decode(str(signature.get("value")), validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if not ed25519.is_valid(key, value, signed_bytes(stated)):
            raise CheckpointError("signature", "the signature: expected one of this manifest, found another")


def write_keys(key_file: Path) -> tuple[Path, str]:
    """Make a new pair of keys.

    Args:
        key_file: gets the private key, for its owner only; the public one goes beside it with the suffix `.pub`.

    Returns:
        The file of the public key, and its short name.

    Raises:
        SignatureError: a file is there already, or cannot be written.
    """
    with _errors_of_keys():
        public, private_pem, public_pem = ed25519.generate()
    public_file = key_file.with_name(key_file.name + ".pub")
    _write_new(key_file, private_pem, 0o600)
    _write_new(public_file, public_pem, 0o644)
    return public_file, ed25519.key_id(public)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(content)
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror}", hint="name a new file") from error


def _load(path: Path, *, is_private: bool) -> Any:
    with _errors_of_keys():
        return ed25519.load(path, is_private=is_private)


@contextmanager
def _errors_of_keys() -> Iterator[None]:
    try:
        yield
    except ed25519.KeyFileError as error:
        raise SignatureError(str(error), hint=error.hint or "make keys with: python -m serve keygen") from error
