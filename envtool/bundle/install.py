"""Installing a bundle: its files are proven into the cache, and the environment is made from there by `create`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from envtool.artifacts.download import require_sha256
from envtool.bundle.format import LOCKFILE, Bundle, open_bundle, path_of
from envtool.console import ProgressDisplay, Task
from envtool.errors import BundleError, HashMismatchError
from envtool.fetch.archive_cache import Cache, Wanted
from envtool.fetch.client import part_url
from envtool.fetch.downloader import fetch
from envtool.install.create import Outcome, create
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, parse_lockfile
from envtool.signing.trust import trusted as trusted_keys

if TYPE_CHECKING:
    from envtool.prefix.prefix import Prefix


@dataclass(frozen=True)
class Trusted:
    """A bundle whose signature was checked, where this machine asks for one."""

    bundle: Bundle
    key: str | None
    lockfile: Lockfile


def open_trusted(path: Path, key_files: Sequence[Path] = ()) -> Trusted:
    """Open a bundle and check its signature, by these public keys or those that this machine trusts. Raises BundleError
    if it is no whole bundle, SignatureError if keys are trusted and none of them has signed it."""
    keyring = trusted_keys(key_files)
    bundle = open_bundle(path)
    key = keyring.require(str(path), bundle.content, bundle.signature) if keyring else None
    lockfile = parse_lockfile(f"{LOCKFILE} in {path}", bundle.read(LOCKFILE).decode("utf-8"))
    return Trusted(bundle, key, lockfile)


def install(trusted: Trusted, request: Request, prefix: Prefix, cache: Cache, display: ProgressDisplay) -> Outcome:
    """Make an environment from a bundle without a network. Raises BundleError before anything of it is touched."""
    bundle = trusted.bundle
    wanted = [_wanted(bundle, package) for package in request.packages]
    with display.task(f"prove {len(wanted)} files of {bundle.path.name}", in_bytes=True) as task:
        try:
            fetch(wanted, cache, task)
        except HashMismatchError as error:
            message = f"{error.name} is damaged or altered:\n  expected {error.expected}\n  actual   {error.actual}"
            raise BundleError(message, "copy or make the bundle again; nothing was installed") from error
    return create(replace(request, is_offline=True, is_vouched=trusted.key is not None), prefix, cache, display)


def verify(bundle: Bundle, task: Task) -> None:
    """Read every file of a bundle."""
    task.expect(bundle.manifest.size_bytes)
    for path in bundle.manifest.files:
        for chunk in bundle.chunks(path):
            task.advance(len(chunk))


def _wanted(bundle: Bundle, package: LockedPackage) -> Wanted:
    path = path_of(package.file_name, require_sha256(package))
    if path not in bundle.places:
        holds = f"{', '.join(bundle.manifest.platforms)} in {', '.join(bundle.manifest.categories)}"
        raise BundleError(
            f"{bundle.path} does not hold {package.file_name} of its lock ({package.platform}, {package.category}); "
            f"it was made for {holds}",
            "make a bundle that has it: envtool bundle create --platform … --category …",
        )
    place = bundle.places[path]
    url = part_url(place.container, place.offset, place.size_bytes)
    return Wanted(package.file_name, require_sha256(package), (url,), place.size_bytes)
