"""The index of a channel: repodata.json and repodata.json.zst of each subdir, written by rattler.

rattler writes into the directory that it indexes, file by file, and notes the time at which it saw each archive. We let
it do that in a directory of links beside the channel, take the time out, so that the same archives have the same index,
and put each file into place whole, so that no reader ever sees half of one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from envtool.files import write_atomically

SUBDIRS = ("linux-64", "noarch")


def write(channel: Path, archives: Sequence[str]) -> None:
    """Index archives of a channel.

    Args:
        channel: Its directory. `noarch/repodata.json` is written even where the subdir is empty, since every client
            asks for it.
        archives: Each as `subdir/file name`; what else lies in the directory is not listed.
    """
    import zstandard

    with TemporaryDirectory(prefix=".index-", dir=channel) as scratch:
        copy = Path(scratch)
        for subdir in SUBDIRS:
            (copy / subdir).mkdir()
        for name in archives:
            _link(channel / name, copy / name)
        asyncio.run(_index(copy))
        for subdir in SUBDIRS:
            repodata = _without_times(json.loads((copy / subdir / "repodata.json").read_bytes()))
            (channel / subdir).mkdir(exist_ok=True)
            write_atomically(channel / subdir / "repodata.json.zst", zstandard.ZstdCompressor().compress(repodata))
            write_atomically(channel / subdir / "repodata.json", repodata)


def is_current(channel: Path, expected: Mapping[str, str]) -> bool:
    """Whether the index lists exactly these archives.

    Args:
        channel: The directory.
        expected: The sha256 of each archive, by `subdir/file name`.
    """
    listed = {}
    for subdir in SUBDIRS:
        try:
            repodata = json.loads((channel / subdir / "repodata.json").read_bytes())
            records = {**repodata["packages"], **repodata["packages.conda"]}
        except (OSError, ValueError, KeyError):
            return False
        if not (channel / subdir / "repodata.json.zst").is_file():
            return False
        listed.update({f"{subdir}/{name}": record.get("sha256") for name, record in records.items()})
    return listed == dict(expected)


async def _index(directory: Path) -> None:
    from rattler.index import index_fs

    # The same arguments in 0.25 and 0.28. Shards only help channels of many thousand packages.
    await index_fs(directory, write_zst=False, write_shards=False, force=True)


def _without_times(repodata: dict[str, Any]) -> bytes:
    for group in ("packages", "packages.conda"):
        for record in repodata[group].values():
            record.pop("indexed_timestamp", None)
    return (json.dumps(repodata, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
