"""Link archives with py-rattler alone: `rattler_link.py PREFIX CACHE ARCHIVE...`. A program, since py-rattler may crash
while an interpreter shuts down."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import rattler


async def link(prefix: Path, cache: Path, archives: list[Path]) -> None:
    kind = getattr(rattler, "Subdir", None) or rattler.Platform
    records = []
    for archive in archives:
        index_json = archive.with_name(f"{archive.name}.index.json")
        record = rattler.PackageRecord.from_index_json(index_json, size=archive.stat().st_size)
        records.append(rattler.RepoDataRecord(record, archive.name, archive.as_uri(), "file:///channel/"))
    await rattler.install(
        records, target_prefix=prefix, cache_dir=cache, platform=kind("linux-64"), show_progress=False
    )


asyncio.run(link(Path(sys.argv[1]), Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]]))
os._exit(0)
