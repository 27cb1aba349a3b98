"""The keys that this machine trusts, the signatures of channels, and the check that packages are in signed ones.

A signature is the 64 raw bytes over the file's own bytes, which `openssl pkeyutl -rawin` makes and checks as well. A
signed file has a key `format`, so that one kind cannot pass for another.

Trusted keys are configured by `ENVTOOL_TRUSTED_KEYS` (paths separated by `:`), or `[trust]` with
`keys = ["/etc/envtool/team.pub"]` in `config.toml` under envtool's home. A bundle has to be signed by one of them then,
and a channel if its URL begins with one of `channels` there or of `ENVTOOL_TRUSTED_CHANNELS` (separated by spaces).

The signature of a channel covers `channel.json`, that names the repodata by sha256, and the repodata names the
archives. What was checked is kept in the cache, so that it can be checked again without a network. Out of scope:
wheels; making keys (openssl does), who may hold them, and how they are withdrawn; how old a signed index is: whoever
can put an older one in place of the newer one is not found out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envtool.atomic_files import write_atomically
from envtool.console import ProgressDisplay, Task
from envtool.errors import InvalidFileError, Issue, NetworkError, SignatureError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.credentials import without_credentials
from envtool.fetch.failover import TransferError
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.mirrors import mirrors
from envtool.signing import dsse

VARIABLE = "ENVTOOL_TRUSTED_KEYS"
CHANNELS_VARIABLE = "ENVTOOL_TRUSTED_CHANNELS"
_MAKE = (
    "make keys with: openssl genpkey -algorithm ed25519 -out team.pem; openssl pkey -in team.pem -pubout -out team.pub"
)


def sign_file(content: bytes, key_file: Path) -> bytes:
    """Sign the bytes of a file with a private key in PEM, without a password; the signature has 64 bytes."""
    signature: bytes = load_key(key_file, is_private=True).sign(content)
    return signature


class Keyring:
    """The keys that are trusted."""

    def __init__(self, key_files: Sequence[Path]) -> None:
        keys = [load_key(path, is_private=False) for path in key_files]
        self._keys = {dsse.key_id(key): key for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def require(self, name: str, content: bytes, signature: bytes | None) -> str:
        """Refuse bytes that none of the keys has signed; returns the short name of the key that did, the first 16
        hexadecimal digits of its sha256. Raises SignatureError."""
        known = ", ".join(sorted(self._keys))
        if signature is None:
            hint = f"sign it, or trust no key: {VARIABLE} and [trust] in config.toml are empty by default"
            raise SignatureError(f"{name}: expected a signature by {known}, found none", hint)
        for key_id, key in self._keys.items():
            if dsse.is_valid(key, signature, content):
                return key_id
        hint = "it was altered after it was signed, or another key signed it; get it again from where it was made"
        raise SignatureError(f"{name}: expected a signature by {known}, found one that none of them made", hint)


def trusted(named: Sequence[Path] = ()) -> Keyring:
    """The keys that the command line names, or else those that this machine is configured to trust."""
    in_variable = [Path(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    if named or in_variable:
        return Keyring(list(named) or in_variable)
    return Keyring([mirrors.config_path().parent / Path(path).expanduser() for path in _table()["keys"]])


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


def load_key(path: Path, *, is_private: bool, takes_ecdsa: bool = False) -> Any:
    """Read a key in PEM. Raises SignatureError if it cannot be used."""
    try:
        return dsse.load(path, is_private=is_private, takes_ecdsa=takes_ecdsa)
    except dsse.KeyFileError as error:
        raise SignatureError(str(error), error.hint or _MAKE) from error


FORMAT = "envtool-channel-1"
INDEX = "channel.json"
SIGNATURE = "channel.json.sig"
FILES = (INDEX, SIGNATURE)


def signature_files(files: Mapping[str, bytes], key_file: Path | None) -> dict[str, bytes]:
    """The two files that sign an index by the content of its files; nothing without a key."""
    if key_file is None:
        return {}
    stated = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    content = (json.dumps({"format": FORMAT, "files": stated}, indent=1, sort_keys=True) + "\n").encode()
    return {INDEX: content, SIGNATURE: sign_file(content, key_file)}


def parse_index(content: bytes, name: str) -> dict[str, tuple[str, int]]:
    """The sha256 and size of each file of the index, by a `channel.json` whose signature was checked."""
    try:
        stated: dict[str, Any] = json.loads(content)
        if stated["format"] != FORMAT:
            raise ValueError(f"expected {FORMAT}, found {stated['format']!r}")
        return {path: (str(each["sha256"]), int(each["size_bytes"])) for path, each in stated["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureError(f"{name} signs no channel: {error}", "sign the channel again") from None


_LARGEST_BYTES = 1 << 24
_SIGN_HINT = "whoever keeps the channel signs it: envtool channel index DIR --key team.pem"


def require_signed(
    packages: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay, *, is_offline: bool = False
) -> None:
    """Refuse packages that are in no signed index of their channel; only channels that have to be signed are asked.
    Raises SignatureError if a channel is not signed by a trusted key, was altered, or does not have a package."""
    prefixes = tuple(os.environ.get(CHANNELS_VARIABLE, "").split()) or tuple(_table()["channels"])
    by_channel: dict[str, list[LockedPackage]] = {}
    for package in packages:
        if package.manager == "conda" and prefixes and package.url.startswith(prefixes):
            by_channel.setdefault(f"{package.url.rsplit('/', 2)[0]}/", []).append(package)
    if not by_channel:
        return
    keyring = trusted()
    if not keyring:
        hint = f"name one: {VARIABLE}, or keys below [trust] in config.toml"
        raise SignatureError("channels have to be signed here, but no key is trusted", hint)
    with display.task(f"check the signatures of {len(by_channel)} channels", in_bytes=True) as task:
        for channel, members in by_channel.items():
            _Channel(channel, cache, is_offline).require(members, keyring, task)


class _Channel:
    def __init__(self, url: str, cache: Cache, is_offline: bool) -> None:
        self._url, self._name = url, without_credentials(url)
        self._cache, self._is_offline = cache, is_offline
        self._kept = cache.root / "channels" / hashlib.sha256(url.encode()).hexdigest()

    def require(self, packages: Sequence[LockedPackage], keyring: Keyring, task: Task) -> None:
        content = self._read(INDEX)
        if content is None:
            raise SignatureError(f"{self._name} is not signed: it has no {INDEX}", _SIGN_HINT)
        name, signature = f"{INDEX} of {self._name}", self._read(SIGNATURE)
        keyring.require(name, content, signature)
        self._keep(INDEX, content)
        self._keep(SIGNATURE, signature or b"")
        stated = parse_index(content, name)
        for subdir in sorted({each.url.rsplit("/", 2)[1] for each in packages}):
            known = self._hashes(f"{subdir}/repodata.json", stated, task)
            for package in packages:
                if package.url.rsplit("/", 2)[1] == subdir and package.sha256 not in known:
                    raise SignatureError(
                        f"{package.file_name} (sha256:{package.sha256}) is not in the signed index of {self._name}",
                        "it was replaced, or taken out of the channel after it was locked: lock again",
                    )

    def _hashes(self, name: str, stated: dict[str, tuple[str, int]], task: Task) -> set[str]:
        if name not in stated:
            return set()
        from envtool.fetch.downloader import fetch  # few machines have channels that must be signed

        sha256, size_bytes = stated[name]
        urls = mirrors.configured().for_url(f"{self._url}{name}")
        wanted = Wanted("repodata.json", sha256, urls, size_bytes)
        repodata = json.loads(fetch([wanted], self._cache, task, is_offline=self._is_offline)[wanted].read_bytes())
        groups = (repodata.get("packages", {}), repodata.get("packages.conda", {}))
        return {str(record.get("sha256")) for group in groups for record in group.values()}

    def _read(self, name: str) -> bytes | None:
        if self._is_offline:
            kept = self._kept / name
            return kept.read_bytes() if kept.is_file() else None
        from envtool.fetch import client

        reasons = []
        for url in mirrors.configured().for_url(f"{self._url}{name}"):
            try:
                content = b""
                with client.get(url) as body:
                    for chunk in body.chunks:
                        content += chunk
                        if len(content) > _LARGEST_BYTES:
                            raise TransferError(f"more than {_LARGEST_BYTES:,} bytes", is_transient=False)
                return content
            except TransferError as error:
                if error.is_transient:
                    reasons.append(f"{without_credentials(url)}: {error.reason}")
        if reasons:
            message = f"{name} of {self._name} could not be downloaded: {'; '.join(reasons)}"
            raise NetworkError(message, "check the network")
        return None

    def _keep(self, name: str, content: bytes) -> None:
        if not self._is_offline:
            self._kept.mkdir(parents=True, exist_ok=True)
            write_atomically(self._kept / name, content)
