"""What archives and wheels state about themselves and must not be followed: paths outside, and more than is sane."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from envtool.artifacts.conda_archive import STATED, read_info, read_payload
from envtool.artifacts.file_manifest import FileManifests, require_plain_paths, scripts_of
from envtool.console import ProgressDisplay
from envtool.errors import ArchiveError
from envtool.install.apply import unpack

BAD = ["../x", "a/../../x", "/x", "a//x", "a/./x", "", ".", "a/", "a/\0", "conda-meta/x.json", "__clobbers__/a/x"]


def conda_archive(place: Path, info: dict[str, Any], payload: dict[str, bytes] | None = None, name: str = "p") -> Path:
    def tar(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return zstandard.ZstdCompressor().compress(buffer.getvalue())

    texts = {
        f"info/{key}": value if isinstance(value, bytes) else json.dumps(value).encode() for key, value in info.items()
    }
    path = place / f"{name}-1.0-0.conda"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("info-p.tar.zst", tar(texts))
        outer.writestr("pkg-p.tar.zst", tar(payload or {}))
    return path


def keep(place: Path, source: Path, manager: str) -> None:
    FileManifests(place / "cache").keep(hashlib.sha256(source.read_bytes()).hexdigest(), manager, source)


INDEX = {"name": "p", "version": "1.0", "build": "0", "build_number": 0, "noarch": "python"}


@pytest.mark.parametrize("path", [*BAD, None, 1, ["x"]])
@pytest.mark.parametrize("path_type", ["hardlink", "softlink", "directory"])
def test_a_path_outside_of_the_prefix_is_named_with_its_package(tmp_path: Path, path: object, path_type: str) -> None:
    archive = conda_archive(
        tmp_path, {"index.json": INDEX, "paths.json": {"paths": [{"_path": path, "path_type": path_type}]}}
    )
    with pytest.raises(ArchiveError) as caught:
        keep(tmp_path, archive, "conda")
    assert archive.name in caught.value.message
    assert repr(path) in caught.value.message


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", "."])
def test_an_entry_point_is_a_file_name(tmp_path: Path, name: str) -> None:
    link = {"noarch": {"type": "python", "entry_points": [f"{name} = m:f"]}, "package_metadata_version": 1}
    archive = conda_archive(tmp_path, {"index.json": INDEX, "paths.json": {"paths": []}, "link.json": link})
    with pytest.raises(ArchiveError, match="entry point"):
        keep(tmp_path, archive, "conda")


@pytest.mark.parametrize(
    "bad", [[], {"paths": {}}, {"paths": [1]}, {}, {"paths": [{"_path": "x", "path_type": "fifo"}]}]
)
def test_a_malformed_list_of_paths_is_an_error_that_we_know(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ArchiveError, match=r"paths\.json"):
        keep(tmp_path, conda_archive(tmp_path, {"index.json": INDEX, "paths.json": bad}), "conda")


def test_an_archive_from_before_paths_json_is_read_by_its_files(tmp_path: Path) -> None:
    info = {"index.json": INDEX, "files": b"bin/tool\nlib/a b\n", "has_prefix": b'/place binary "lib/a b"\nbin/tool\n'}
    archive = conda_archive(tmp_path, info, {"bin/tool": b"x", "lib/a b": b"y", "not/listed": b"z"})
    keep(tmp_path, archive, "conda")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    files = FileManifests(tmp_path / "cache").brought(sha256, ("conda", "p"), "lib/python3.9/site-packages").files
    assert set(files) == {"bin/tool", "lib/a b"}
    assert files["lib/a b"].placeholder is not None
    assert files["lib/a b"].placeholder.text == b"/place"
    assert files["bin/tool"].placeholder is not None


@pytest.mark.parametrize("name", STATED)
def test_what_is_read_whole_is_bounded(tmp_path: Path, name: str) -> None:
    archive = conda_archive(tmp_path, {name: bytes(400 << 20)}, name="large")
    assert archive.stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="too large"):
        read_info(archive, [name])
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" + b"{}," * 300_000 + b"{}]", b'"text"', b"\xff"])
def test_json_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"index\.json"):
        keep(tmp_path, conda_archive(tmp_path, {"index.json": content, "paths.json": {"paths": []}}), "conda")


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    path = tmp_path / "p-1.0-0.conda"
    with zipfile.ZipFile(path, "w") as outer:
        for part in ("info", "pkg"):
            outer.writestr(f"{part}-p.tar.zst", zstandard.ZstdCompressor().compress(header.tobuf() + bytes(1 << 20)))
    for read in (read_payload, lambda archive: read_info(archive, ["index.json"])):
        with pytest.raises(ArchiveError, match="header"):
            read(path)


def bomb(place: Path, size_bytes: int, paths: dict[str, Any]) -> Path:
    """An archive of some kilobytes whose one file, of zeros, has a size."""
    member = tarfile.TarInfo("share/zeros")
    member.size = size_bytes
    info = io.BytesIO()
    with tarfile.open(fileobj=info, mode="w") as tar:
        for name, value in {"index.json": INDEX, **paths}.items():
            content = json.dumps(value).encode()
            entry = tarfile.TarInfo(f"info/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    payload = compressor.compress(member.tobuf())
    payload += b"".join(compressor.compress(bytes(1 << 20)) for _ in range((size_bytes >> 20) + 1)) + compressor.flush()
    path = place / "bomb-1.0-0.conda"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("info-p.tar.zst", zstandard.ZstdCompressor().compress(info.getvalue()))
        outer.writestr("pkg-p.tar.zst", payload)
    return path


STATES = [{"_path": "share/zeros", "path_type": "hardlink", "size_in_bytes": 10, "sha256": "0" * 64}]


@pytest.mark.parametrize("paths", [{}, {"paths.json": {"paths": STATES}}])
@pytest.mark.parametrize("size_bytes", [100 << 20, 400 << 20])
def test_a_payload_is_bounded(tmp_path: Path, paths: dict[str, Any], size_bytes: int) -> None:
    archive = bomb(tmp_path, size_bytes, paths)
    assert archive.stat().st_size < 100_000
    is_stated = bool(paths)
    if size_bytes > 256 << 20:
        with pytest.raises(ArchiveError, match="200 times its size"):
            read_payload(archive)
    (tmp_path / "env").mkdir()
    with ProgressDisplay() as display, display.task("unpack") as task:
        if is_stated or size_bytes > 256 << 20:
            with pytest.raises(
                ArchiveError, match="200 times" if size_bytes > 256 << 20 else "far more than info/paths"
            ):
                unpack({archive: tmp_path / "out"}, tmp_path / "env", task)
            assert not (tmp_path / "out/share/zeros").exists()
        else:
            unpack({archive: tmp_path / "out"}, tmp_path / "env", task)


def wheel(place: Path, files: dict[str, bytes]) -> Path:
    path = place / "w-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize(
    "files",
    [
        {"../x": b""},
        {"/x": b""},
        {"w-1.0.data/data/../../../x": b""},
        {"w-1.0.data/data/conda-meta/x.json": b""},
        {"w-1.0.data/scripts/../x": b""},
        {"w-1.0.dist-info/RECORD": b"../../../../x,,\n"},
        {"w-1.0.dist-info/RECORD": b"/etc/x,,\n"},
        {"w-1.0.dist-info/RECORD": b'"' + b"a" * 200_000 + b'",,\n'},
        {"w-1.0.dist-info/RECORD": bytes(100 << 20)},
    ],
)
def test_a_wheel_states_plain_paths(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(ArchiveError, match=r"w-1\.0"):
        require_plain_paths(wheel(tmp_path, files))


@pytest.mark.parametrize("text", [b"[console_scripts]\n../x = m:f\n", b"[gui_scripts]\na/b = m:f\n", b"no section\n"])
def test_the_scripts_of_a_wheel_are_file_names(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"entry_points\.txt"):
        scripts_of(wheel(tmp_path, {"w-1.0.dist-info/entry_points.txt": text}))
