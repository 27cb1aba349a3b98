"""A mirror of one lock: a channel that holds exactly its archives, under their own names, and its wheels, under
`wheels/` with the path of their URL, so that `ENVTOOL_MIRRORS` names it prefix by prefix. The index is made from the
archives alone: do not solve from it, it lacks what a channel corrects in its repodata only. It is stored in a directory
or a bucket, where every object has the sha256 of its content among its metadata; keys and region come from where boto3
finds them, and `AWS_ENDPOINT_URL` names another store than Amazon's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Union
from urllib.parse import quote, unquote, urlsplit

from envtool.artifacts.conda_package import safe_path
from envtool.artifacts.download import require_sha256
from envtool.atomic_files import writing
from envtool.channel import index
from envtool.console import ProgressDisplay
from envtool.errors import ChannelError, EnvtoolError, NetworkError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.lockfile.model import is_repository
from envtool.signing import trust
from envtool.source_builds.wheel_builds import fetch_or_build


class DirectoryStorage:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = f"{self.root.as_uri()}/"

    def paths(self) -> Iterable[str]:
        """Every file that is there."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if not path.is_dir())

    def read(self, path: str) -> bytes | None:
        """A small file, None where there is none."""
        target = self.root / path
        return target.read_bytes() if target.is_file() else None

    def has(self, path: str, sha256: str) -> bool:
        """Whether a file is there with this content; it is read."""
        target = self.root / path
        return target.is_file() and not target.is_symlink() and sha256_of(target) == sha256

    def put(self, path: str, source: Path, sha256: str) -> None:
        """Put a file there, whole or not at all."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)

    def remove(self, path: str) -> None:
        """Remove a file, and the directories that are empty then."""
        target = self.root / path
        target.unlink(missing_ok=True)
        for parent in target.parents:
            if parent == self.root or any(parent.iterdir()):
                break
            parent.rmdir()


_NEEDS = "install envserve with its extra [s3]"
_TYPES = {".json": "application/json", ".zst": "application/zstd"}


class S3Storage:
    """A bucket, or what is below a prefix of one. Raises EnvtoolError if there is no boto3 or no bucket is named."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise EnvtoolError(f"{url} names no bucket", "s3://BUCKET/PREFIX is the form")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/".lstrip("/")
        self._name = url
        try:
            import boto3
        except ImportError as error:
            raise EnvtoolError(f"boto3 cannot be imported: {error}", _NEEDS) from error
        with self._asking():
            self._client: Any = boto3.client("s3")
        # Where it is over HTTP, with `/` at its end; whether others may read there is the store's to say.
        self.url = f"{self._client.meta.endpoint_url}/{self._bucket}/{quote(self._prefix)}"

    def paths(self) -> Iterable[str]:
        """Every object that is there."""
        with self._asking():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            return sorted(each["Key"][len(self._prefix) :] for page in pages for each in page.get("Contents", ()))

    def read(self, path: str) -> bytes | None:
        """A small object, None where there is none."""
        with self._asking():
            try:
                body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read()
                return body
            except self._client.exceptions.NoSuchKey:
                return None

    def has(self, path: str, sha256: str) -> bool:
        """Whether an object is there that was put there with this content."""
        from botocore.exceptions import ClientError

        with self._asking():
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return False
                raise
            return bool(head["Metadata"].get("sha256") == sha256)

    def put(self, path: str, source: Path, sha256: str) -> None:
        """Put an object there, in parts where it is large."""
        extra: dict[str, Any] = {"Metadata": {"sha256": sha256}}
        if kind := _TYPES.get(Path(path).suffix):
            extra["ContentType"] = kind
        with self._asking():
            self._client.upload_file(str(source), self._bucket, self._prefix + path, ExtraArgs=extra)

    def remove(self, path: str) -> None:
        """Remove an object."""
        with self._asking():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            hint = "check the bucket's name, the keys, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
            raise NetworkError(f"{self._name}: {error}", hint) from error


# Somewhere that files can be put, each whole or not at all.
Storage = Union[DirectoryStorage, S3Storage]


MARK = "mirror.json"
_FORMAT = "envtool-mirror-1"


class Mirrored(NamedTuple):
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
