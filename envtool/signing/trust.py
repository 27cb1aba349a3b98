"""The check that the packages of a lock are in signed channels, where this machine asks for that.

The signature covers `channel.json`, that names the repodata by sha256, and the repodata names the archives. So a locked
archive is vouched for when its sha256 is in the signed repodata. What was checked is kept in the cache, so that it can
be checked again without a network. Out of scope: wheels, and how old a signed index is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from envtool.atomic_files import write_atomically
from envtool.console import ProgressDisplay, Task
from envtool.errors import NetworkError, SignatureError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.credentials import without_credentials
from envtool.fetch.failover import TransferError
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.mirrors import mirrors
from envtool.signing import keyring as keys
from envtool.signing.keyring import Keyring

_LARGEST_BYTES = 1 << 24
_SIGN_HINT = "whoever keeps the channel signs it: envtool channel index DIR --key team.pem"


def require_signed(
    packages: Sequence[LockedPackage], cache: Cache, display: ProgressDisplay, *, is_offline: bool = False
) -> None:
    """Refuse packages that are in no signed index of their channel; only channels that have to be signed are asked.

    Raises:
        SignatureError: a channel is not signed by a trusted key, was altered, or does not have a package.
    """
    prefixes = keys.trusted_channels()
    by_channel: dict[str, list[LockedPackage]] = {}
    for each in packages:
        if each.manager == "conda" and prefixes and each.url.startswith(prefixes):
            by_channel.setdefault(f"{each.url.rsplit('/', 2)[0]}/", []).append(each)
    if not by_channel:
        return
    keyring = keys.trusted()
    if not keyring:
        hint = f"name one: {keys.VARIABLE}, or keys below [trust] in config.toml"
        raise SignatureError("channels have to be signed here, but no key is trusted", hint)
    with display.task(f"check the signatures of {len(by_channel)} channels", in_bytes=True) as task:
        for channel, members in by_channel.items():
            _Channel(channel, cache, is_offline).require(members, keyring, task)


class _Channel:
    """One channel that has to be signed."""

    def __init__(self, url: str, cache: Cache, is_offline: bool) -> None:
        self._url, self._name = url, without_credentials(url)
        self._cache, self._is_offline = cache, is_offline
        self._kept = cache.root / "channels" / hashlib.sha256(url.encode()).hexdigest()

    def require(self, packages: Sequence[LockedPackage], keyring: Keyring, task: Task) -> None:
        content = self._read(keys.INDEX)
        if content is None:
            raise SignatureError(f"{self._name} is not signed: it has no {keys.INDEX}", _SIGN_HINT)
        name, signature = f"{keys.INDEX} of {self._name}", self._read(keys.SIGNATURE)
        keyring.require(name, content, signature)
        self._keep(keys.INDEX, content)
        self._keep(keys.SIGNATURE, signature or b"")
        stated = keys.parse(content, name)
        for subdir in sorted({each.url.rsplit("/", 2)[1] for each in packages}):
            known = self._hashes(f"{subdir}/repodata.json", stated, task)
            for each in packages:
                if each.url.rsplit("/", 2)[1] == subdir and each.sha256 not in known:
                    raise SignatureError(
                        f"{each.file_name} (sha256:{each.sha256}) is not in the signed index of {self._name}",
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
        reasons = []
        for url in mirrors.configured().for_url(f"{self._url}{name}"):
            try:
                return _get(url)
            except TransferError as error:
                if error.is_transient:
                    reasons.append(f"{without_credentials(url)}: {error.reason}")
        if reasons:
            raise NetworkError(
                f"{name} of {self._name} could not be downloaded: {'; '.join(reasons)}", "check the network"
            )
        return None

    def _keep(self, name: str, content: bytes) -> None:
        if not self._is_offline:
            self._kept.mkdir(parents=True, exist_ok=True)
            write_atomically(self._kept / name, content)


def _get(url: str) -> bytes:
    from envtool.fetch import client

    content = b""
    with client.get(url) as body:
        for chunk in body.chunks:
            content += chunk
            if len(content) > _LARGEST_BYTES:
                raise TransferError(f"more than {_LARGEST_BYTES:,} bytes", is_transient=False)
    return content
