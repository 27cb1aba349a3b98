"""A package's record in conda-meta as conda itself would write it, out of the one that py-rattler writes.

Where the two differ, conda reads py-rattler's wrongly: `conda doctor` calls each link altered, and no file that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envtool.artifacts.stated_paths import place_of
from envtool.prefix.clobber import kept_at


def as_conda_writes(record: Mapping[str, Any], url: str, md5: str | None) -> dict[str, Any]:
    """The record of a package that was just linked.

    Source: conda 24.7.1, `LinkPathAction.verify` in conda/core/path_actions.py.
    """
    mended = {**record, "url": url, "paths_data": {**record["paths_data"]}}
    set_md5(mended, md5)
    # Both name the directory that the archive was unpacked to, which is gone. Without them conda finds the record by
    # the package's name, version and build; with only one of them empty it would not. conda-pack wants the key `link`.
    mended.pop("extracted_package_dir", None)
    mended["link"] = None
    mended["paths_data"]["paths"] = [_path(each, record["name"]) for each in record["paths_data"]["paths"]]
    return mended


def as_rattler_reads(record: Mapping[str, Any], site_packages: str) -> dict[str, Any]:
    """The record of a package that conda linked, so that py-rattler finds every file of it.

    conda notes where a file of a noarch package was in the archive; py-rattler takes that for where it is, and would
    leave the file there when the package goes.
    """
    if record.get("noarch") != "python":
        return dict(record)
    paths = [{**each, "_path": place_of(each["_path"], site_packages)} for each in record["paths_data"]["paths"]]
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
