"""Debian packages made by hand."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from typing import Callable

import zstandard

CONTROL = b"Package: demo\nVersion: 1:2.0-3+deb11u1\nDescription: a demo\n with a long\n Package: text\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def file(path: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.mode = mode
    return info, content


def special(path: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, target
    return info, b""


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def package(data: bytes, ending: str = ".xz", control: bytes = CONTROL) -> bytes:
    packed = PACKERS[ending]
    return ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(tar(file("./control", control)))),
        (f"data.tar{ending}", packed(data)),
    )
