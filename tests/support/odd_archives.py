"""Archives as conda-build, rattler-build and old tools make them, odd ones among them; none of them was built by us.

What is odd was seen in public packages: zip64 entries, sparse members, names that begin with `./`, links of all kinds,
features, archives without `paths.json` or without `index.json`, and paths that several packages bring.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zstandard

Files = Mapping[str, "bytes | str"]  # `-> TARGET` is a link, `=> PATH` another name of a file


def write_all(directory: Path) -> list[Path]:
    """Write every archive into a directory; the last one has no `index.json`."""
    made = [
        _conda(directory, "conda-like", {"bin/run": b"#!/bin/sh\n", "etc/x": b"x"}, more=_CONDA_BUILD),
        _bz2(directory, "conda-like-old", {"lib/a": b"a", "lib/b": "-> a"}, more=_CONDA_BUILD),
        _conda(directory, "rattler-like", {"share/r": b"r"}, more=_RATTLER_BUILD),
        _conda(directory, "zip64", {"share/zip64": b"64"}, is_zip64=True),
        _conda(directory, "several-parts", {"share/parts": b"p" * 100_000}, frames=7),
        _conda(directory, "links", {
            "lib/libreal.so.1": b"real", "lib/libreal.so": "-> libreal.so.1", "lib/libhard.so": "=> lib/libreal.so.1",
            "lib64": "-> lib", "share/dangling": "-> ../nowhere/at/all", "share/absolute": "-> /etc/hostname",
        }),
        _conda(directory, "dots", {"lib/data.txt": b"dots\n", "lib/d/er.txt": b"deep\n"}, dots="./", is_listed=False),
        _bz2(directory, "dots-old", {"lib/old.txt": b"old\n"}, dots="./", is_listed=False),
        _conda(directory, "info-only", {}, is_whole=False),
        _conda(directory, "empty", {}),
        _conda(directory, "long-names", {f"share/{'d' * 200}/{'n' * 200}": b"long", "share/ünï cödé 'q\"": b"u"}),
        _conda(directory, "featured", {"share/f": b"f"}, index={"features": "track1", "track_features": "track2"}),
        _conda(directory, "constrained", {"share/c": b"c"}, index={"constrains": ["needs >=1"]}),
        _conda(directory, "needs", {"share/n": b"n"}, index={"depends": ["base-of-it 1.*", "__glibc >=2.17"]}),
        _conda(directory, "base-of-it", {"share/n0": b"n0"}, version="1.9"),
        _conda(directory, "link-scripts", {"bin/.link-scripts-post-link.sh": b"exit 7\n"}),
        _conda(directory, "activates", {"etc/conda/activate.d/a.sh": b"export A=1\n"}),
        _sparse(directory),
        *(_conda(directory, f"clobber-{each}", {"share/same": each.encode(), f"share/{each}": b""}) for each in "abc"),
        _bz2(directory, "clobber-d", {"share/same": b"d", "share/renamed": b"d"}, index={"depends": ["clobber-b"]}),
        _conda(directory, "file-there", {"dir": b"a file"}),
        _conda(directory, "directory-there", {"dir/below": b"below"}),
        _conda(directory, "clobber-a", {"share/same": b"newer", "share/a": b""}, version="2.0"),
        _conda(directory, "tests-of-own", {"share/t": b"t"}, more={"info/test/run_test.sh": b"exit 1\n"}),
    ]  # fmt: skip
    return [*made, _conda(directory, "no-index", {"share/x": b"x"}, index=None)]


_CONDA_BUILD = {
    "info/about.json": b'{"conda_build_version": "24.1.2", "extra": {"recipe-maintainers": ["x"]}}',
    "info/hash_input.json": b'{"c_compiler": "gcc"}', "info/git": b"", "info/recipe/meta.yaml": b"package: {name: x}\n",
    "info/files": b"ignored, since paths.json is there\n", "info/licenses/LICENSE": b"MIT",
}  # fmt: skip
_RATTLER_BUILD = {
    "info/about.json": b"{}", "info/recipe/rendered_recipe.yaml": b"recipe: {}\n", "info/tests/tests.yaml": b"[]\n",
    "info/recipe/variant_config.yaml": b"{}\n",
}  # fmt: skip


def _info(
    name: str, files: Files, *, version: str, index: Mapping[str, Any] | None, is_listed: bool
) -> dict[str, bytes]:
    head = {"name": name, "version": version, "build": "h0_0", "build_number": 0, "depends": [], "subdir": "noarch"}
    content = {} if index is None else {"info/index.json": json.dumps({**head, "noarch": "generic", **index}).encode()}
    if is_listed:
        paths = {"paths": [_path(files, file) for file in files], "paths_version": 1}
        content["info/paths.json"] = json.dumps(paths).encode()
    return content


def _path(files: Files, path: str) -> dict[str, Any]:
    content = files[path]
    is_link = isinstance(content, str) and content.startswith("->")
    if isinstance(content, str):
        content = files.get(content[3:] if not is_link else str(Path(path).parent / content[3:]), b"")
    data = content if isinstance(content, bytes) else b""
    kind = {"path_type": "softlink" if is_link else "hardlink"}
    return {"_path": path, "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data), **kind}


def _tar(files: Files, dots: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in (
            sorted({str(parent) for path in files for parent in Path(path).parents} - {"."}) if dots else ()
        ):
            member = tarfile.TarInfo(f"{dots}{directory}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for path, content in files.items():
            member = tarfile.TarInfo(f"{dots}{path}")
            member.mode = 0o755 if path.startswith("bin/") else 0o644
            if isinstance(content, str):
                member.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                member.linkname = content[3:]
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _conda(
    directory: Path, name: str, files: Files, *, version: str = "1.0", index: Mapping[str, Any] | None = {},
    more: Mapping[str, bytes] = {}, dots: str = "", is_listed: bool = True, is_zip64: bool = False, frames: int = 1,
    is_whole: bool = True, payload: bytes | None = None,
) -> Path:  # fmt: skip
    info = {**_info(name, files, version=version, index=index, is_listed=is_listed), **more}
    stem = f"{name}-{version}-h0_0"
    parts = {f"info-{stem}": _tar(info), **({f"pkg-{stem}": payload or _tar(files, dots)} if is_whole else {})}
    path = directory / f"{stem}.conda"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        for part, content in parts.items():
            step = -(-len(content) // frames)
            pieces = (content[start : start + step] for start in range(0, len(content), step))
            with outer.open(f"{part}.tar.zst", "w", force_zip64=is_zip64) as file:
                file.write(b"".join(map(zstandard.ZstdCompressor().compress, pieces)))
    return path


def _bz2(
    directory: Path, name: str, files: Files, *, index: Mapping[str, Any] = {}, more: Mapping[str, bytes] = {},
    dots: str = "", is_listed: bool = True,
) -> Path:  # fmt: skip
    info = {**_info(name, files, version="1.0", index=index, is_listed=is_listed), **more}
    path = directory / f"{name}-1.0-h0_0.tar.bz2"
    path.write_bytes(bz2.compress(_tar({**info, **files}, dots if not index and dots else "")))
    return path


def _sparse(directory: Path) -> Path:
    """A member with a hole, as GNU tar writes it."""
    content = bytes(70_000) + b"end of the hole"
    with tempfile.TemporaryDirectory() as scratch:
        blob = Path(scratch, "lib/blob.bin")
        blob.parent.mkdir()
        with blob.open("wb") as file:
            file.seek(70_000)
            file.write(b"end of the hole")
        command = ["tar", "--create", "--sparse", "--hole-detection=raw", "--format=gnu", "--directory", scratch, "lib"]
        payload = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(payload) < len(content)
    return _conda(directory, "sparse", {"lib/blob.bin": content}, payload=payload)


def names_of(archives: Iterable[Path]) -> set[str]:
    """The packages of archives."""
    return {archive.name.rsplit("-", 2)[0] for archive in archives}
