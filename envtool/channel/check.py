"""Checking a channel: every archive against the index, and against its own metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envtool.artifacts import stated_paths as stated
from envtool.artifacts.conda_archive import STATED, Member, parse_info, read_info, read_info_json, read_payload
from envtool.channel import index
from envtool.console import Task
from envtool.errors import ArchiveError, Issue
from envtool.fetch.archive_cache import sha256_of

_SAME_KEYS = ("name", "version", "build", "build_number")


def check_archive(path: Path) -> list[Issue]:
    """Compare an archive with its own paths.json, and its name with its own index.json."""
    try:
        info, payload = read_info(path, STATED), read_payload(path)
        record = parse_info(path, info, "index.json")
        info.setdefault("paths.json", stated.listed(payload, info))
        rows = stated.paths(path, parse_info(path, info, "paths.json"))
    except ArchiveError as error:
        return [Issue(path.name, str(error))]
    return [*_name_issues(path, record), *_payload_issues(path, rows, {each.path: each for each in payload})]


def check(channel: Path, archives: Mapping[str, Path], task: Task) -> list[Issue]:
    """Check a whole channel."""
    issues = list(_index_issues(channel, archives))
    for name, path in archives.items():
        issues += [Issue(f"{name.partition('/')[0]}/{each.place}", each.message) for each in check_archive(path)]
        task.advance()
    return issues


def _name_issues(path: Path, record: Mapping[str, Any]) -> Iterator[Issue]:
    stated = f"{record.get('name')}-{record.get('version')}-{record.get('build')}"
    if path.name not in (f"{stated}.conda", f"{stated}.tar.bz2"):
        yield Issue(path.name, f"is {stated} by its own index.json")


def _payload_issues(path: Path, rows: Mapping[str, Any], payload: Mapping[str, Member]) -> Iterator[Issue]:
    for name in sorted(payload.keys() - rows.keys()):
        yield Issue(path.name, f"{name} is not in its paths.json")
    for name in sorted(rows.keys() - payload.keys()):
        if rows[name].get("path_type") != "directory":
            yield Issue(path.name, f"{name} is in its paths.json only")
    for name in sorted(rows.keys() & payload.keys()):
        expected = rows[name].get("sha256")
        if not payload[name].is_link and expected not in (None, payload[name].sha256):
            yield Issue(path.name, f"{name} has sha256 {payload[name].sha256}, its paths.json has {expected}")


def _index_issues(channel: Path, archives: Mapping[str, Path]) -> Iterator[Issue]:
    subdirs = {"noarch", *(name.partition("/")[0] for name in archives)}
    subdirs |= {path.parent.name for path in channel.glob("*/repodata.json")}
    for subdir in sorted(subdirs):
        records = index.read(channel, subdir)
        if records is None:
            yield Issue(f"{subdir}/repodata.json", "not found, or malformed")
            continue
        if not index.is_packed(channel, subdir):
            yield Issue(f"{subdir}/repodata.json.zst", "does not hold what repodata.json holds")
        own = {name.partition("/")[2]: path for name, path in archives.items() if name.startswith(f"{subdir}/")}
        yield from (Issue(f"{subdir}/{name}", "is not in the index") for name in sorted(own.keys() - records.keys()))
        yield from (Issue(f"{subdir}/{name}", "is in the index only") for name in sorted(records.keys() - own.keys()))
        for name in sorted(own.keys() & records.keys()):
            yield from (Issue(f"{subdir}/{name}", each) for each in _record_issues(own[name], records[name]))


def _record_issues(path: Path, record: Mapping[str, Any]) -> Iterator[str]:
    size_bytes, digest = path.stat().st_size, sha256_of(path)
    if record.get("size") != size_bytes:
        yield f"has {size_bytes} bytes, the index has {record.get('size')}"
    if record.get("sha256") != digest:
        yield f"has sha256 {digest}, the index has {record.get('sha256')}"
        return
    own = read_info_json(path, "index.json")
    for key in _SAME_KEYS:
        if record.get(key) != own.get(key):
            yield f"has {key} {own.get(key)!r}, the index has {record.get(key)!r}"
