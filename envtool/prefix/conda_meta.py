"""What a prefix notes of itself: the records and history in conda-meta, and the files that a wheel records. Where conda
reads py-rattler's records wrongly (`conda doctor` calls each link altered, and no file that is), they are mended."""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from envtool.artifacts.file_manifest import kept_at, place_of
from envtool.atomic_files import write_atomically
from envtool.errors import PrefixError
from envtool.prefix.prefix import Prefix


def write_history(
    meta: Path, command: str, before: Sequence[str], after: Sequence[str], match_specs: Sequence[str]
) -> None:
    """Note a change as conda does (conda/history.py); without the `update specs` a later `conda remove` would take
    everything out that nothing else needs."""
    lines = [f"==> {time.strftime('%Y-%m-%d %H:%M:%S')} <==", f"# cmd: {command}"]
    lines += [f"-{each}" for each in sorted(set(before) - set(after))]
    lines += [f"+{each}" for each in sorted(set(after) - set(before))]
    lines += [f"# update specs: {sorted(match_specs)!r}"]
    history = meta / "history"
    old = history.read_text() if history.exists() else ""
    write_atomically(history, old + "\n".join(lines) + "\n")


def set_variables(meta: Path, variables: Mapping[str, str]) -> None:
    """Note the variables that activation sets, where conda and py-rattler look for them."""
    state = {"env_vars": dict(sorted(variables.items()))}
    write_atomically(meta / "state", json.dumps(state, indent=2, sort_keys=True) + "\n")


def freeze(meta: Path) -> None:
    """Tell conda not to change the prefix (CEP 22)."""
    message = "This environment is made from a lock by envtool: change the lock, then run envtool create."
    write_atomically(meta / "frozen", json.dumps({"message": message}) + "\n")


def as_conda_writes(record: Mapping[str, Any], url: str, md5: str | None) -> dict[str, Any]:
    """The record of a package that was just linked (conda 24.7.1, `LinkPathAction.verify` in core/path_actions.py)."""
    mended = {**record, "url": url, "paths_data": {**record["paths_data"]}}
    set_md5(mended, md5)
    # Both name the directory that the archive was unpacked to, which is gone. Without them conda finds the record by
    # the package's name, version and build; with only one of them empty it would not. conda-pack wants the key `link`.
    mended.pop("extracted_package_dir", None)
    mended["link"] = None
    mended["paths_data"]["paths"] = [_path(path, record["name"]) for path in record["paths_data"]["paths"]]
    return mended


def as_rattler_reads(record: Mapping[str, Any], site_packages: str) -> dict[str, Any]:
    """The record of a package that conda linked, with each file where it is: conda notes where a file of a noarch
    package was in the archive, and py-rattler would leave it there when the package goes."""
    if record.get("noarch") != "python":
        return dict(record)
    paths = [{**path, "_path": place_of(path["_path"], site_packages)} for path in record["paths_data"]["paths"]]
    return {**record, "paths_data": {**record["paths_data"], "paths": paths}}


def set_md5(record: dict[str, Any], md5: str | None) -> None:
    """Let a record have this hash of its archive, or none."""
    record.pop("md5", None)
    if md5:
        record["md5"] = md5


def _path(path: Mapping[str, Any], name: str) -> dict[str, Any]:
    lost = kept_at(name, "")
    if path["_path"].startswith(lost):  # as py-rattler notes what another package has in its place
        path = {**path, "original_path": path["_path"][len(lost) :]}
    if path["path_type"] == "softlink":
        # py-rattler hashes the text of a link, conda's doctor the file that it leads to.
        return {key: value for key, value in path.items() if key != "sha256_in_prefix"}
    if path["path_type"] == "hardlink" and path.get("sha256"):
        return {"sha256_in_prefix": path["sha256"], **path}
    return dict(path)


_PYTHON_ENTRY_POINT = "unix_python_entry_point"
# What a conda that nobody configured calls them. Source: conda/models/channel.py, `Channel.canonical_name`.
_ALIAS = "https://conda.anaconda.org/"
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")


class CondaPackage(NamedTuple):
    """One record of conda-meta."""

    name: str
    version: str
    sha256: str
    # `channel/subdir::name-version-build`, as conda's history names it, which takes another name for another package.
    description: str
    entry_points: tuple[str, ...]
    files: tuple[str, ...]


def conda_packages(prefix: Path) -> list[CondaPackage]:
    """The conda packages of a prefix. Raises PrefixError if a record of conda-meta is damaged."""
    return [_conda_package(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def recorded_files(prefix: Path, record: str) -> Iterator[str]:
    """The files that a wheel brought, itself included, relative to the prefix."""
    site_packages = posixpath.dirname(posixpath.dirname(record))
    for line in (prefix / record).read_text(encoding="utf-8").splitlines():
        yield posixpath.normpath(posixpath.join(site_packages, line.rsplit(",", 2)[0].strip('"')))


def wheel_files(prefix: Prefix, names: Sequence[str]) -> Iterator[str]:
    """The files of distributions of a prefix, by the RECORD of their wheels."""
    wanted = {canonicalize_name(name) for name in names}
    site_packages = prefix.site_packages()
    for record in (prefix.path / site_packages).glob("*.dist-info/RECORD"):
        if canonicalize_name(record.parent.name.partition("-")[0]) in wanted:
            yield from recorded_files(prefix.path, f"{site_packages}/{record.parent.name}/RECORD")


def record_names(prefix: Path) -> set[str]:
    """`name-version-build` of each conda package of a prefix, without a look into the records."""
    return {path.name[: -len(".json")] for path in (prefix / "conda-meta").glob("*.json")}


def _conda_package(path: Path) -> CondaPackage:
    try:
        record: Mapping[str, Any] = json.loads(path.read_bytes())
        channel, subdir, _ = record["url"].rsplit("/", 2)
        channel = "defaults" if channel in _DEFAULTS else channel.removeprefix(_ALIAS)
        package = f"{record['name']}-{record['version']}-{record['build']}"
        paths = record["paths_data"]["paths"]
        return CondaPackage(
            name=record["name"],
            version=record["version"],
            sha256=record["sha256"],
            description=f"{channel}/{subdir}::{package}",
            entry_points=tuple(each["_path"] for each in paths if each.get("path_type") == _PYTHON_ENTRY_POINT),
            files=tuple(record["files"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PrefixError(f"{path} is damaged: {error!r}", "envtool create --force makes the prefix anew") from error


def channel_of(url: str) -> str:
    """The URL of the channel that an archive is in."""
    return url.rsplit("/", 2)[0] + "/"
