"""The storage of a channel: a directory, or a bucket. Keys and region come from where boto3 finds them;
`AWS_ENDPOINT_URL` names another store than Amazon's. Every object has the sha256 of its content among its metadata."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union
from urllib.parse import quote, urlsplit

from envtool.atomic_files import writing
from envtool.errors import EnvtoolError, NetworkError
from envtool.fetch.archive_cache import sha256_of


class DirectoryStorage:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def url(self) -> str:
        """Its file:// URL, with `/` at its end."""
        return f"{self.root.as_uri()}/"

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

    @property
    def url(self) -> str:
        """Where it is over HTTP, with `/` at its end; whether others may read there is the store's to say."""
        return f"{self._client.meta.endpoint_url}/{self._bucket}/{quote(self._prefix)}"

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
