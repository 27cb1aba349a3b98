"""An image: all that one package brought into a prefix, byte-code included, in a form that fits into any prefix.

Small files lie one after the other in a *pack*; each large one is a file of its own, named by its sha256, so that it
can be cloned. Out of scope: where images are kept (`envtool.package_cache.store`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from envtool.artifacts.relocation import Placeholder
from envtool.lockfile.model import LockedPackage
from envtool.prefix.bytecode import WORKER

PACK = "pack"


@dataclass(frozen=True)
class StoredFile:
    """A file of an image.

    Args:
        sha256: of what is stored: the content with the placeholder where it names the prefix.
        offset: where it begins in the pack; None for a file of its own.
        rewrite: what is done when it is placed: nothing; `prefix`, `text` or `binary` (the prefix is put in); `record`
            (scripts are hashed anew); `kept` (nothing, but its hash is not that of its content).
    """

    path: str
    mode: int
    sha256: str
    size_bytes: int
    offset: int | None = None
    rewrite: str = ""
    placeholder: str = ""

    def declared(self) -> Placeholder | None:
        """The placeholder that the archive declares."""
        return Placeholder(self.placeholder.encode(), self.rewrite == "binary") if self.placeholder else None


@dataclass(frozen=True)
class CacheEntry:
    """What one package brings.

    Args:
        record: its record for conda-meta, None for a wheel; `PREFIX_TEXT` stands for the prefix.
        seals: the name of each stored file to its inode, size and times in nanoseconds, as it was written.
    """

    files: tuple[StoredFile, ...]
    links: Mapping[str, str]
    record: Mapping[str, Any] | None
    seals: Mapping[str, Sequence[int]] = field(default_factory=dict)
    pack_sha256: str = ""

    @property
    def size_bytes(self) -> int:
        """How much its files hold."""
        return sum(file.size_bytes for file in self.files)


def image_key(package: LockedPackage, python_sha256: str) -> str:
    """What the image of a package is kept under: whatever its content depends on.

    Args:
        python_sha256: the hash of the archive of the environment's Python, empty where it has none.
    """
    parts = [package.manager, package.name, package.version, package.sha256, *_installers()]
    if depends_on_python(package):
        parts.append(python_sha256)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def depends_on_python(package: LockedPackage) -> bool:
    """Whether a package is installed in another way for another Python; its image holds byte-code only then."""
    if package.manager == "pip" or package.name == "python" or "python" in package.dependencies:
        return True
    return urlsplit(package.url).path.split("/")[-2:-1] == ["noarch"]


def format_image(image: CacheEntry) -> bytes:
    """An image's index; it ends with its own hash, so that half of it is known for what it is."""
    content = json.dumps(
        {**asdict(image), "files": [list(asdict(file).values()) for file in image.files]}, separators=(",", ":")
    ).encode()
    return content + b"\n" + hashlib.sha256(content).hexdigest().encode()


def parse_image(text: bytes) -> CacheEntry:
    """Read an index. Raises ValueError if it is damaged."""
    content, _, sha256 = text.rpartition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != sha256:
        raise ValueError("the index of an unpacked package does not have its hash")
    data = json.loads(content)
    return CacheEntry(**{**data, "files": tuple(StoredFile(*each) for each in data["files"])})


@lru_cache(maxsize=1)
def _installers() -> tuple[str, ...]:
    from importlib.metadata import version

    # What these write (first lines of scripts, byte-code, records) may change with their versions. The first number
    # goes up when the form of an image or of the record in it changes.
    return "2", *(version(name) for name in ("py-rattler", "uv")), hashlib.sha256(WORKER.read_bytes()).hexdigest()
