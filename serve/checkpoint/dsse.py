"""Keys, signatures, and signed in-toto statements: the one door to `cryptography`, imported only when a key is used.
`envtool/signing/dsse.py` and `serve/checkpoint/dsse.py` are the same file, byte for byte, because neither half imports
the other; `tests/unit/test_dsse.py` compares them. Source: RFC 8032 (Ed25519), FIPS 186-5 (ECDSA), DSSE 1.0, in-toto
attestation framework 1.0 (statement)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_CURVES = {256: "SHA256", 384: "SHA384", 521: "SHA512"}


class KeyFileError(Exception):
    """A key that cannot be used; `hint` is the next command, None where only another key helps."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def load(path: Path, *, is_private: bool, takes_ecdsa: bool = False) -> Any:
    """Read a key in PEM, without a password: Ed25519, or ECDSA over P-256, P-384 or P-521 where that is taken. Raises
    KeyFileError if it cannot be read or is of another kind, or cryptography is not installed."""
    serialization, kind = _serialization(), "private" if is_private else "public"
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        pem = path.read_bytes()
        key = serialization.load_pem_private_key(pem, None) if is_private else serialization.load_pem_public_key(pem)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: expected a {kind} key in PEM ({error})") from error
    if isinstance(key, ed25519.Ed25519PrivateKey if is_private else ed25519.Ed25519PublicKey):
        return key
    is_ecdsa = isinstance(key, ec.EllipticCurvePrivateKey if is_private else ec.EllipticCurvePublicKey)
    if not (takes_ecdsa and is_ecdsa and key.curve.name in ("secp256r1", "secp384r1", "secp521r1")):
        expected = "an Ed25519 or ECDSA" if takes_ecdsa else "an Ed25519"
        raise KeyFileError(f"{path}: expected {expected} {kind} key, found {type(key).__name__}")
    return key


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        hint = "install envserve with its extra [sign]"
        raise KeyFileError(f"cryptography cannot be imported: {error}", hint) from error
    return serialization


def _subject_public_key_info(key: Any, encoding: str) -> bytes:
    serialization = _serialization()
    form = getattr(serialization.Encoding, encoding), serialization.PublicFormat.SubjectPublicKeyInfo
    info: bytes = key.public_bytes(*form)
    return info


def key_id(public_key: Any) -> str:
    """The short name of a public key: the first 16 hexadecimal digits of the sha256 of its 32 raw bytes, for ECDSA of
    its SubjectPublicKeyInfo in DER."""
    is_ecdsa = hasattr(public_key, "curve")
    raw = _subject_public_key_info(public_key, "DER") if is_ecdsa else public_key.public_bytes_raw()
    return hashlib.sha256(raw).hexdigest()[:16]


def pem_sha256(public_key: Any) -> str:
    """The sha256 of a public key in PEM, by which Sigstore's bundles name it."""
    return hashlib.sha256(_subject_public_key_info(public_key, "PEM")).hexdigest()


def sign(private_key: Any, content: bytes) -> bytes:
    """The signature of some bytes: 64 bytes of Ed25519, or ECDSA in DER."""
    signature: bytes = private_key.sign(content, *_scheme(private_key))
    return signature


def is_valid(public_key: Any, signature: bytes, content: bytes) -> bool:
    """Whether a signature of these bytes was made with the private half of a key."""
    from cryptography.exceptions import InvalidSignature

    try:
        public_key.verify(signature, content, *_scheme(public_key))
        return True
    except InvalidSignature:
        return False


def _scheme(key: Any) -> tuple[Any, ...]:
    if not hasattr(key, "curve"):
        return ()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return (ec.ECDSA(getattr(hashes, _CURVES[key.curve.key_size])()),)


def statement(predicate_type: str, subjects: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement about things by their sha256."""
    named = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects.items()]
    return {"_type": STATEMENT_TYPE, "subject": named, "predicateType": predicate_type, "predicate": predicate}


def pre_authentication(payload: bytes) -> bytes:
    """What the signature of an envelope covers (PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(stated: Mapping[str, Any], private_key: Any) -> dict[str, Any]:
    """A statement in a signed envelope."""
    payload = json.dumps(stated, sort_keys=True, indent=1, ensure_ascii=False).encode()
    made = base64.b64encode(sign(private_key, pre_authentication(payload))).decode()
    signatures = [{"keyid": key_id(private_key.public_key()), "sig": made}]
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}


def unseal(envelope: Mapping[str, Any], public_keys: Sequence[Any]) -> dict[str, Any]:
    """The statement of an envelope. Raises ValueError if it is not one of an in-toto statement, or none of the keys has
    signed it."""
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(signature["sig"], validate=True) for signature in envelope["signatures"]]
        kind = envelope["payloadType"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected a DSSE envelope ({error!r})") from None
    if kind != PAYLOAD_TYPE:
        raise ValueError(f"expected the payload type {PAYLOAD_TYPE}, found {str(kind)[:80]!r}")
    covered = pre_authentication(payload)
    if not any(is_valid(key, signature, covered) for key in public_keys for signature in signatures):
        raise ValueError(f"expected a signature by {', '.join(map(key_id, public_keys))}, found another")
    stated = json.loads(payload)
    if not isinstance(stated, dict) or stated.get("_type") != STATEMENT_TYPE:
        raise ValueError(f"expected a statement of type {STATEMENT_TYPE}")
    return stated


def generate() -> tuple[Any, bytes, bytes]:
    """Make a pair of Ed25519 keys: the public key, and the private and the public one in PEM (PKCS #8 and
    SubjectPublicKeyInfo). Raises KeyFileError if cryptography is not installed."""
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, form = Ed25519PrivateKey.generate(), serialization.PrivateFormat.PKCS8
    secret = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    public = private.public_key()
    return public, secret, _subject_public_key_info(public, "PEM")
