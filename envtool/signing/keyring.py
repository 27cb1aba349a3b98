"""The keys that this machine trusts, and signing.

A signature is the 64 raw bytes over the file's own bytes, which `openssl pkeyutl -rawin` makes and checks as well. A
signed file has a key `format`, so that one kind cannot pass for another.

Trusted keys are configured by `ENVTOOL_TRUSTED_KEYS` (paths separated by `:`), or `[trust]` with
`keys = ["/etc/envtool/team.pub"]` in `config.toml` under envtool's home. A bundle has to be signed by one of them then,
and a channel if its URL begins with one of `channels` there or of `ENVTOOL_TRUSTED_CHANNELS` (separated by spaces).
Out of scope: making keys (openssl does), who may hold them, and how they are withdrawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envtool.errors import InvalidFileError, Issue, SignatureError
from envtool.mirrors import mirrors
from envtool.signing import ed25519

VARIABLE = "ENVTOOL_TRUSTED_KEYS"
CHANNELS_VARIABLE = "ENVTOOL_TRUSTED_CHANNELS"
_MAKE = (
    "make keys with: openssl genpkey -algorithm ed25519 -out team.pem; openssl pkey -in team.pem -pubout -out team.pub"
)


def sign(content: bytes, key_file: Path) -> bytes:
    """Sign the bytes of a file with a private key in PEM, without a password; the signature has 64 bytes."""
    signature: bytes = _load(key_file, is_private=True).sign(content)
    return signature


class Keyring:
    """The keys that are trusted."""

    def __init__(self, key_files: Sequence[Path]) -> None:
        keys = [_load(path, is_private=False) for path in key_files]
        self._keys = {ed25519.key_id(key): key for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def require(self, name: str, content: bytes, signature: bytes | None) -> str:
        """Refuse bytes that none of the keys has signed.

        Returns:
            The short name of the key that signed: the first 16 hexadecimal digits of its sha256.

        Raises:
            SignatureError: there is no signature, or it is of other bytes or another key.
        """
        known = ", ".join(sorted(self._keys))
        if signature is None:
            hint = f"sign it, or trust no key: {VARIABLE} and [trust] in config.toml are empty by default"
            raise SignatureError(f"{name}: expected a signature by {known}, found none", hint)
        for key_id, key in self._keys.items():
            if ed25519.is_valid(key, signature, content):
                return key_id
        hint = "it was altered after it was signed, or another key signed it; get it again from where it was made"
        raise SignatureError(f"{name}: expected a signature by {known}, found one that none of them made", hint)


def trusted(named: Sequence[Path] = ()) -> Keyring:
    """The keys that the command line names, or else those that this machine is configured to trust."""
    in_variable = [Path(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    return Keyring(
        list(named)
        or in_variable
        or [mirrors.config_path().parent / Path(path).expanduser() for path in _table()["keys"]]
    )


def trusted_channels() -> tuple[str, ...]:
    """The prefixes of the URLs of channels that have to be signed."""
    return tuple(os.environ.get(CHANNELS_VARIABLE, "").split()) or tuple(_table()["channels"])


def _table() -> dict[str, list[str]]:
    nothing: dict[str, list[str]] = {"keys": [], "channels": []}
    trust = mirrors.read_table("trust")
    table = {**nothing, **trust} if isinstance(trust, dict) else {}
    lists = [isinstance(value, list) and all(isinstance(text, str) for text in value) for value in table.values()]
    if table.keys() != nothing.keys() or not all(lists):
        name = str(mirrors.config_path())
        issue = Issue(f"{name}: trust", 'may have keys = ["/path/of/team.pub"] and channels = ["https://…/"], no more')
        raise InvalidFileError(name, [issue])
    return table


def _load(path: Path, *, is_private: bool) -> Any:
    try:
        return ed25519.load(path, is_private=is_private)
    except ed25519.KeyFileError as error:
        raise SignatureError(str(error), error.hint or _MAKE) from error
