"""Empty wheels that represent conda packages while uv chooses the others.

A stand-in states name, version and, where an extra is asked for, what the extras need: uv asks no index for that name,
chooses no other version and completes nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envtool.pypi.distribution_names import Provided

_WHEEL = "Wheel-Version: 1.0\nGenerator: envtool\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def stand_in(provided: Provided, extras: str, directory: Path) -> Path:
    """Write the stand-in of a distribution, unless it is there; its path states its content, so uv may remember it."""
    metadata = f"Metadata-Version: 2.1\nName: {provided.name}\nVersion: {provided.version}\n{extras}"
    stem = f"{provided.name.replace('-', '_')}-{provided.version}"
    content = _wheel(stem, metadata)
    path = directory / hashlib.sha256(metadata.encode()).hexdigest()[:16] / f"{stem}-py3-none-any.whl"
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{id(content)}.tmp")
        temporary.write_bytes(content)  # not synced: one that a crash spoils has another size
        temporary.replace(path)
    return path


def extras_in(metadata: str) -> str:
    """The lines of a METADATA that are about its extras.

    Source: PyPA core metadata specification, "Provides-Extra", "Requires-Dist".
    """
    headers = HeaderParser().parsestr(metadata)
    lines = [f"Provides-Extra: {each}" for each in headers.get_all("Provides-Extra", [])]
    needs = (" ".join(str(each).split()) for each in headers.get_all("Requires-Dist", []))
    lines += [f"Requires-Dist: {each}" for each in needs if "extra" in each.partition(";")[2]]
    return "".join(f"{each}\n" for each in lines)


def _wheel(stem: str, metadata: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in (("METADATA", metadata), ("WHEEL", _WHEEL), ("RECORD", "")):
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
    return buffer.getvalue()
