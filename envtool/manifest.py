"""What a proven archive or wheel holds: the hash of every file that it brings into a prefix.

Taken from the bytes themselves: a wheel's own RECORD is not always right (torch 1.12.1 states another hash for its
METADATA than it has). Reading a wheel of 2 GB takes seconds, so the result is kept in the cache under the wheel's hash.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envtool.archive import read_info_json
from envtool.errors import ArchiveError
from envtool.files import write_atomically
from envtool.inventory import Placeholder

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Declared:
    """One file as an archive or wheel brings it.

    Args:
        package: `name version` of the package.
        sha256: Hash of its content with the placeholder in it, None where installing writes the content.
        placeholder: What stands in place of the prefix, None where nothing does.
    """

    package: str
    sha256: str | None
    placeholder: Placeholder | None = None


class Manifests:
    """The manifests of archives and wheels, kept under the hash of what they describe.

    Args:
        cache_dir: Where they are kept.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._root = cache_dir / "manifests"

    def is_known(self, sha256: str) -> bool:
        """Whether the manifest is kept, so that the archive or wheel is not needed."""
        return self._path(sha256).is_file()

    def of_archive(self, archive: Path | None, sha256: str, package: str, site_packages: str) -> dict[str, Declared]:
        """The files of a conda archive, by the path that they have in a prefix.

        Args:
            archive: The proven archive; None when the manifest is known.
            sha256: Its hash.
            package: `name version`, for findings.
            site_packages: Where `noarch: python` packages go, such as `lib/python3.9/site-packages`.

        Raises:
            ArchiveError: It is no archive, or has no paths.json.
        """
        content = self._keep(sha256, archive, _archive_content)
        is_python = content["noarch"] == "python"
        return {_linked(each["_path"], is_python, site_packages): _declared(package, each) for each in content["paths"]}

    def of_wheel(self, wheel: Path | None, sha256: str, package: str, site_packages: str) -> dict[str, Declared]:
        """The files of a wheel, by the path that they have in a prefix.

        Args:
            wheel: The proven wheel; None when the manifest is known.
            sha256: Its hash.
            package: `name version`, for findings.
            site_packages: Where it goes, such as `lib/python3.9/site-packages`.

        Raises:
            ArchiveError: It is no wheel.
        """
        hashes = self._keep(sha256, wheel, _member_hashes)
        return {
            _installed(name, site_packages): Declared(package, None if _is_rewritten(name) else digest)
            for name, digest in hashes.items()
            if not name.endswith("/")
        }

    def _keep(self, sha256: str, source: Path | None, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        kept = self._path(sha256)
        if source is None:
            content: dict[str, Any] = json.loads(kept.read_bytes())
            return content
        content = read(source)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(content, sort_keys=True))
        return content

    def _path(self, sha256: str) -> Path:
        return self._root / f"{sha256}.json"


def _archive_content(archive: Path) -> dict[str, Any]:
    noarch = read_info_json(archive, "index.json").get("noarch")
    return {"noarch": noarch, "paths": read_info_json(archive, "paths.json")["paths"]}


def _linked(path: str, is_python: bool, site_packages: str) -> str:
    if is_python and path.startswith("site-packages/"):
        return f"{site_packages}/{path[len('site-packages/') :]}"
    if is_python and path.startswith("python-scripts/"):
        return f"bin/{path[len('python-scripts/') :]}"
    return path


def _declared(package: str, path: Mapping[str, Any]) -> Declared:
    placeholder = None
    if path.get("prefix_placeholder"):
        placeholder = Placeholder(path["prefix_placeholder"].encode(), path.get("file_mode") == "binary")
    is_file = path.get("path_type", "hardlink") == "hardlink"
    return Declared(package, path.get("sha256") if is_file else None, placeholder)


def _installed(name: str, site_packages: str) -> str:
    # The .data directory holds what goes elsewhere (Binary distribution format, PyPA specifications).
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return f"{site_packages}/{name}"
    scheme, _, path = rest.partition("/")
    distribution = top.rpartition("-")[0]
    version = site_packages.split("/")[1]
    places = {"scripts": "bin/", "data": "", "headers": f"include/site/{version}/{distribution}/"}
    return f"{places.get(scheme, f'{site_packages}/')}{path}"


def _is_rewritten(name: str) -> bool:
    # RECORD is written by the installer, scripts get the prefix's interpreter.
    return name.endswith(".dist-info/RECORD") or ".data/scripts/" in name


def _member_hashes(wheel: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(wheel) as archive, ThreadPoolExecutor() as pool:
            # The largest first, so that no core is left alone with one of them at the end.
            names = [each.filename for each in sorted(archive.infolist(), key=lambda each: -each.file_size)]
            return dict(zip(names, pool.map(lambda name: _member_sha256(archive, name), names)))
    except (zipfile.BadZipFile, OSError) as error:
        raise ArchiveError(f"{wheel} is no wheel: {error}") from error


def _member_sha256(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
