"""The index of a channel (repodata.json, repodata.json.zst and, on request, shards), made by rattler of a directory of
links. The times at which it saw each archive are taken out, so that the same archives have the same index; times that
the index had already stay, and so do shards, which keep rattler's times, as long as the repodata does."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from envtool import console
from envtool.atomic_files import write_atomically
from envtool.errors import ChannelError
from envtool.signing import trust

SUBDIRS = ("linux-64", "noarch")
SHARDS = "repodata_shards.msgpack.zst"


def write(
    channel: Path, archives: Sequence[str], *, has_shards: bool | None = None, key_file: Path | None = None
) -> None:
    """Index archives of a channel, each as `subdir/file name`, and no others; an older signature goes."""
    if has_shards is None:
        has_shards = any(channel.glob(f"*/{SHARDS}"))
    there = [path.parent.name for path in channel.glob("*/repodata.json")]
    sources = {name: channel / name for name in archives}
    # What was assigned once stays. Source: CEP 47, "Channel server requirements".
    records = [record for subdir in there for record in (read(channel, subdir) or {}).values()]
    known = [record for record in records if {"sha256", "indexed_timestamp"} <= record.keys()]
    times = {record["sha256"]: record["indexed_timestamp"] for record in known}
    files = render(sources, channel, {*SUBDIRS, *there}, has_shards=has_shards, times=times)
    for old in channel.glob(f"*/{SHARDS}") if has_shards else ():
        # Those that are there stay, in subdirs whose repodata stays as it is.
        subdir, repodata = old.parent.name, old.with_name("repodata.json")
        if repodata.is_file() and repodata.read_bytes() == files.get(f"{subdir}/repodata.json"):
            shards = (f"{subdir}/{SHARDS}", f"{subdir}/shards/")
            files = {name: content for name, content in files.items() if not name.startswith(shards)}
            kept = (old, *old.parent.glob("shards/*"))
            files.update((path.relative_to(channel).as_posix(), path.read_bytes()) for path in kept)
    files.update(trust.signature_files(files, key_file))
    for name in sorted(files, key=readers_order):
        (channel / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(channel / name, files[name])
    signatures = (channel / name for name in trust.FILES)
    for path in [*channel.glob("*/shards/*"), *channel.glob(f"*/{SHARDS}"), *signatures]:
        if path.relative_to(channel).as_posix() not in files:
            path.unlink(missing_ok=True)


def render(
    archives: Mapping[str, Path], scratch_parent: Path, subdirs: Iterable[str] = SUBDIRS, *, has_shards: bool = False,
    times: Mapping[str, int] | None = None,
) -> dict[str, bytes]:  # fmt: skip
    """The content of each file of an index, by its path in the channel; `scratch_parent` is on the file system of the
    archives, so that they can be linked, `subdirs` have an index even if they are empty, and `times` are known values
    of `indexed_timestamp` by sha256."""
    with TemporaryDirectory(prefix=".index-", dir=scratch_parent) as scratch:
        copy = Path(scratch)
        named = {*subdirs, *(name.partition("/")[0] for name in archives)}
        known = set(filter(is_known, named))
        for subdir in sorted(named - known):
            console.warn(f"{subdir} is no platform that conda knows: its archives are left out of the index")
        for subdir in known:
            (copy / subdir).mkdir()
        archives = {name: source for name, source in archives.items() if name.partition("/")[0] in known}
        for name, source in archives.items():
            _link(source, copy / name)
        if _failure(copy, has_shards=has_shards) is not None:
            for name, source in archives.items():
                if (reason := problem(source)) is not None:
                    console.warn(f"{name} is left out of the index: {reason}", "envtool channel check tells more")
                    (copy / name).unlink()
            if (failure := _failure(copy, has_shards=has_shards)) is not None:
                raise ChannelError(f"the archives cannot be indexed: {failure}")
        return dict(sorted(_files(copy, times or {})))


def is_known(subdir: str) -> bool:
    """Whether a subdir is `noarch` or a platform."""
    import rattler

    try:
        (rattler.Subdir if hasattr(rattler, "Subdir") else rattler.Platform)(subdir)
    except Exception:  # py-rattler's own, of several unrelated types
        return False
    return True


def problem(archive: Path) -> str | None:
    """Why an archive cannot be in an index, or None when it can."""
    parent = archive.resolve().parent
    # Beside it, where it can be linked; elsewhere it is copied.
    with TemporaryDirectory(prefix=".index-", dir=parent if os.access(parent, os.W_OK) else None) as scratch:
        copy = Path(scratch)
        (copy / "noarch").mkdir()
        _link(archive, copy / "noarch" / archive.name)
        return _failure(copy, has_shards=False)


def _failure(copy: Path, *, has_shards: bool) -> str | None:
    """Index a directory; the error of rattler if it cannot."""
    from rattler.index import index_fs

    async def run() -> None:
        # The same arguments in 0.25 and 0.28.
        await index_fs(copy, write_zst=False, write_shards=has_shards, force=True)

    try:
        asyncio.run(run())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # several unrelated types, and a panic is no Exception
        return str(error).splitlines()[0] if str(error) else repr(error)
    return None


def is_current(channel: Path, expected: Mapping[str, str]) -> bool:
    """Whether the index lists exactly these archives."""
    listed = {}
    for subdir in {*SUBDIRS, *(name.partition("/")[0] for name in expected)}:
        records = read(channel, subdir)
        if records is None or not (channel / subdir / "repodata.json.zst").is_file():
            return False
        listed.update({f"{subdir}/{name}": record.get("sha256") for name, record in records.items()})
    return listed == dict(expected)


def read(channel: Path, subdir: str) -> dict[str, Any] | None:
    """The records of a subdir by file name, None where its repodata.json is missing or malformed."""
    try:
        repodata = json.loads((channel / subdir / "repodata.json").read_bytes())
        return {**repodata["packages"], **repodata["packages.conda"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_packed(channel: Path, subdir: str) -> bool:
    """Whether the repodata.json.zst of a subdir holds the same as its repodata.json."""
    import zstandard

    try:
        packed = (channel / subdir / "repodata.json.zst").read_bytes()
        plain = (channel / subdir / "repodata.json").read_bytes()
        return bool(zstandard.ZstdDecompressor().stream_reader(packed).read() == plain)
    except (OSError, zstandard.ZstdError):
        return False


def newest_first(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The file names of records, the highest version first, and of one version the highest build number."""
    import rattler

    def order(name: str) -> tuple[Any, int, int, str]:
        record = records[name]
        return rattler.Version(record["version"]), record["build_number"], record.get("timestamp") or 0, name

    return sorted(records, key=order, reverse=True)


def _files(copy: Path, times: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    import zstandard

    compress = zstandard.ZstdCompressor().compress
    for path in copy.rglob("*"):
        name = path.relative_to(copy).as_posix()
        if path.name == "repodata.json":
            repodata = json.loads(path.read_bytes())
            for record in (*repodata["packages"].values(), *repodata["packages.conda"].values()):
                record.pop("indexed_timestamp", None)
                if record.get("sha256") in times:
                    record["indexed_timestamp"] = times[record["sha256"]]
            content = (json.dumps(repodata, sort_keys=True, separators=(",", ":")) + "\n").encode()
            yield name, content
            yield f"{name}.zst", compress(content)
        elif path.name == SHARDS or path.parent.name == "shards":
            yield name, path.read_bytes()


def readers_order(path: str) -> tuple[int, str]:
    """The order in which files are written: an archive or a shard before its index, the signature last."""
    is_index = path.rpartition("/")[2].startswith("repodata")
    return (2 if path in trust.FILES else 1 if is_index else 0), path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
