"""The Python distributions in a conda archive as pip and uv see them: `.dist-info` and `.egg-info` in site-packages.

Source: PyPA specifications, "Recording installed projects".
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

from envtool.artifacts.conda_archive import open_part, read_info
from envtool.errors import ArchiveError

_MAX_METADATA_BYTES = 4 << 20
# A path in paths.json or in info/files. Directly below site-packages: what a distribution vendors is nobody else's.
_SITE_PACKAGES = rb'(?:^|["\n])(?:lib/python[0-9.]+t?/|Lib/)?site-packages/'
_DIST_INFO = re.compile(_SITE_PACKAGES + rb'([^/"\n]+?)-([^/"\n-]+)\.dist-info["/\n]')
_EGG_INFO = re.compile(_SITE_PACKAGES + rb'([^/"\n]+?)-([^/"\n-]+)(?:-py[0-9.]+)?\.egg-info["/\n]')


def distributions_in(archive: Path) -> dict[str, str]:
    """The distributions that an archive brings, normalized name to version. Raises ArchiveError if it is not a valid
    package archive."""
    listed = b"\n".join(read_info(archive, ["paths.json", "files"]).values()) + b"\n"
    found = [*_EGG_INFO.findall(listed), *_DIST_INFO.findall(listed)]
    return {_normalized(name): version.decode("utf-8", "replace") for name, version in found}


def metadata_in(archive: Path, distribution: str) -> str | None:
    """The METADATA of one of the distributions that an archive brings, None where it has none. Raises ArchiveError if
    it is not a valid package archive."""
    try:
        with open_part(archive, "pkg") as tar:
            for member in tar:
                found = _DIST_INFO.match(b"\n" + member.name.encode())
                is_metadata = member.name.endswith(".dist-info/METADATA")
                if found and is_metadata and _normalized(found[1]) == distribution:
                    file = tar.extractfile(member)
                    return file.read(_MAX_METADATA_BYTES).decode("utf-8", "replace") if file else None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise ArchiveError(f"{archive} is not a valid package archive: {error}") from error
    return None


def _normalized(name: bytes) -> str:
    return re.sub(r"[-_.]+", "-", name.decode("utf-8", "replace")).lower()
