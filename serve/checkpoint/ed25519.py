"""Ed25519 keys and signatures (RFC 8032): the one door to `cryptography`, imported only when a key is used.

`envtool/signing/ed25519.py` and `serve/checkpoint/ed25519.py` are the same file, byte for byte, because neither half
imports the other; `tests/unit/test_ed25519.py` compares them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


class KeyFileError(Exception):
    """A key that cannot be used.

    Args:
        hint: the next command; None where only another key helps.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def load(path: Path, *, is_private: bool) -> Any:
    """Read a key in PEM, without a password.

    Raises:
        KeyFileError: the file cannot be read or holds another kind of key, or cryptography is not installed.
    """
    kind = "private" if is_private else "public"
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        hint = "install envserve with its extra [sign]"
        raise KeyFileError(f"cryptography cannot be imported: {error}", hint) from error
    try:
        pem = path.read_bytes()
        key: Any = (
            serialization.load_pem_private_key(pem, None) if is_private else serialization.load_pem_public_key(pem)
        )
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path}: expected a {kind} key in PEM ({error})") from error
    expected = ed25519.Ed25519PrivateKey if is_private else ed25519.Ed25519PublicKey
    if not isinstance(key, expected):
        raise KeyFileError(f"{path}: expected an Ed25519 {kind} key, found {type(key).__name__}")
    return key


def key_id(public_key: Any) -> str:
    """The short name of a public key: the first 16 hexadecimal digits of the sha256 of its 32 raw bytes."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def is_valid(public_key: Any, signature: bytes, content: bytes) -> bool:
    """Whether a signature (64 bytes) of these bytes was made with the private half of a key."""
    from cryptography.exceptions import InvalidSignature

    try:
        public_key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def generate() -> tuple[Any, bytes, bytes]:
    """Make a pair of keys.

    Returns:
        The public key, and the private and the public one in PEM (PKCS #8 and SubjectPublicKeyInfo).
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        hint = "install envserve with its extra [sign]"
        raise KeyFileError(f"cryptography cannot be imported: {error}", hint) from error
    private, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = private.public_key()
    return public, secret, public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
