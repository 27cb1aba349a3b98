"""The licences of a Debian package: its copyright file, and what SPDX calls what stands there.

Format: Debian Policy 12.5, and DEP 5 for files that machines can read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence

from envtool.artifacts.conda_package import Entry
from envtool.channel.python_recipe.deb_archive import Deb
from envtool.errors import ArchiveError

_COPYRIGHT = re.compile(r"usr/share/doc/(?P<package>[^/]+)/copyright")
_LICENSE = re.compile(r"^License:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_FAMILY = re.compile(r"(?P<family>A?GPL|LGPL|GFDL)-(?P<version>[0-9](?:\.[0-9])?)(?:\.0)?(?P<later>\+)?")
_SPDX = {
    "expat": "MIT", "mit": "MIT", "x11": "X11", "isc": "ISC", "zlib": "Zlib", "curl": "curl", "openssl": "OpenSSL",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "apache-2.0": "Apache-2.0", "artistic-2.0": "Artistic-2.0", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
    "cc0-1.0": "CC0-1.0", "python-2.0": "Python-2.0", "psf-2": "PSF-2.0", "bzip2": "bzip2-1.0.6", "0bsd": "0BSD",
    "unicode-dfs-2016": "Unicode-DFS-2016", "bsl-1.0": "BSL-1.0", "blessing": "blessing", "unlicense": "Unlicense",
}  # fmt: skip


def copyrights(deb: Deb, others: Mapping[str, Deb]) -> tuple[Entry, ...]:
    """The copyright files of a package, below `licenses/`.

    Args:
        deb: The package. Its directory of documents may be a link to another package's.
        others: The packages that may be meant, by name.

    Raises:
        ArchiveError: There is none.
    """
    link = f"usr/share/doc/{deb.name}"
    target = next((posixpath.basename(each.link) for each in deb.members if each.path == link and each.link), None)
    found = _own(deb) or (_own(others[target]) if target and target in others else ())
    if not found:
        where = f": it is in {target}, add that with --deb" if target else ""
        raise ArchiveError(f"{deb.name} has no copyright file{where}")
    return found


def _own(deb: Deb) -> tuple[Entry, ...]:
    found = ((_COPYRIGHT.fullmatch(each.path), each.content) for each in deb.members if each.link is None)
    return tuple(Entry(f"licenses/{match['package']}/copyright", content) for match, content in found if match)


def license_expression(files: Sequence[Entry]) -> str:
    """The licences of copyright files as an SPDX expression.

    A licence that SPDX has no short name for becomes a `LicenseRef-`, and so does a file that is prose: the text itself
    is in the package.
    """
    text = "\n".join(each.content.decode(errors="replace") for each in files)
    stated = {_spdx(each) for each in _LICENSE.findall(text)}
    return " AND ".join(sorted(stated)) if stated else "LicenseRef-Debian-copyright"


def _spdx(stated: str) -> str:
    parts = re.split(r",?\s+(and|or)\s+", stated)
    if len(parts) > 1:
        words = [each.upper() if index % 2 else _spdx(each) for index, each in enumerate(parts)]
        return f"({' '.join(words)})"
    match = _FAMILY.fullmatch(stated)
    if match:
        version = match["version"] if "." in match["version"] else f"{match['version']}.0"
        return f"{match['family']}-{version}-{'or-later' if match['later'] else 'only'}"
    return _SPDX.get(stated.lower()) or "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", stated).strip("-")
