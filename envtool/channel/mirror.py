"""A mirror of one lock: a channel that holds exactly its archives, under their own names, and its wheels, under
`wheels/` with the path of their URL, so that `ENVTOOL_MIRRORS` names it prefix by prefix. The index is made from the
archives alone: do not solve from it, it lacks what a channel corrects in its repodata only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from envtool.artifacts.conda_package import safe_path
from envtool.artifacts.download import require_sha256
from envtool.channel import index
from envtool.channel.storage import Storage
from envtool.console import ProgressDisplay
from envtool.errors import ChannelError
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.lockfile.model import is_repository
from envtool.signing import trust
from envtool.source_builds.wheel_builds import fetch_or_build

MARK = "mirror.json"
_FORMAT = "envtool-mirror-1"


@dataclass(frozen=True)
class Mirrored:
    """What a mirror is after a run."""

    url: str
    files: int
    moved: tuple[str, ...]
    removed: tuple[str, ...]
    mirrors: Mapping[str, str]


def mirror(
    lockfile: Lockfile, place: Storage, cache: Cache, display: ProgressDisplay, *, key_file: Path | None = None
) -> Mirrored:
    """Bring a mirror up to date with a lock. Raises ChannelError if something else is in the place, or two files of the
    lock have one name, and what `fetch_or_build` raises."""
    there = list(place.paths())
    try:
        is_ours = not there or json.loads(place.read(MARK) or b"{}").get("format") == _FORMAT
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        message = f"{place.url} holds something other than a mirror; nothing in it was touched"
        raise ChannelError(message, "name another")
    wanted = _placed(lockfile)
    origins = dict(sorted(_origin(package) for package in lockfile.packages))
    proven = fetch_or_build(list({each.url: each for each in wanted.values()}.values()), cache, display)
    archives = {path: proven[each.url] for path, each in wanted.items() if each.manager == "conda"}
    with TemporaryDirectory(prefix=".mirror-", dir=cache.root) as name, display.task(f"write {place.url}") as task:
        with_hashes = {path: (proven[each.url], require_sha256(each)) for path, each in wanted.items()}
        with_hashes.update(_index(archives, origins, Path(name), key_file))
        moved = []
        # The mark first, so that the place is known as a mirror.
        for path in sorted(with_hashes, key=lambda path: (path != MARK, index.readers_order(path))):
            source, digest = with_hashes[path]
            if not place.has(path, digest):
                place.put(path, source, digest)
                moved.append(path)
            task.advance()
        removed = [path for path in there if path not in with_hashes]
        for path in removed:
            place.remove(path)
    mirrors = {prefix: place.url + path for prefix, path in origins.items()}
    return Mirrored(place.url, len(wanted), tuple(moved), tuple(removed), mirrors)


def _placed(lockfile: Lockfile) -> dict[str, LockedPackage]:
    found: dict[str, LockedPackage] = {}
    for package in lockfile.packages:
        path = _path(package)
        before = found.setdefault(path, package)
        if before.sha256 != package.sha256:
            message = f"one mirror cannot hold both {before.url} and {package.url}: they differ under one name"
            raise ChannelError(message, "use a single channel for this package, and lock again")
    return found


def _path(package: LockedPackage) -> str:
    path = unquote(urlsplit(package.url).path)
    if is_repository(package.url):
        hint = "envtool bundle carries its wheel; or build the wheel once, and write NAME @ URL"
        raise ChannelError(f"{package.name} comes from a git repository, which a mirror of files does not have", hint)
    if package.manager == "pip":
        return safe_path(f"wheels/{path.lstrip('/')}", package.url)
    return safe_path("/".join(path.split("/")[-2:]), package.url)


def _origin(package: LockedPackage) -> tuple[str, str]:
    parts = urlsplit(package.url)
    if package.manager == "conda":
        return f"{package.url.partition('#')[0].rsplit('/', 2)[0]}/", ""
    if parts.netloc:
        return f"{parts.scheme}://{parts.netloc}/", "wheels/"
    directory = package.url.partition("#")[0].rpartition("/")[0]
    return f"{directory}/", f"wheels{urlsplit(directory).path}/"


def _index(
    archives: Mapping[str, Path], origins: Mapping[str, str], scratch: Path, key_file: Path | None
) -> dict[str, tuple[Path, str]]:
    files = index.render(archives, scratch, ("noarch",))
    files.update(trust.signature_files(files, key_file))
    mark = {"format": _FORMAT, "origins": origins}
    files[MARK] = (json.dumps(mark, indent=1, sort_keys=True) + "\n").encode()
    found = {}
    for number, (path, content) in enumerate(files.items()):
        source = scratch / str(number)
        source.write_bytes(content)
        found[path] = (source, sha256(content).hexdigest())
    return found
