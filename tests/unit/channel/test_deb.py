from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from envtool.artifacts.conda_package import Entry
from envtool.channel.python_recipe import debian
from envtool.errors import ArchiveError
from tests.support.debs import CONTROL, PACKERS, ar, file, package, special, tar


def read(tmp_path: Path, content: bytes) -> debian.Deb:
    path = tmp_path / "demo.deb"
    path.write_bytes(content)
    return debian.read(path)


def assert_refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        read(tmp_path, content)
    assert "demo.deb" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("ending", list(PACKERS))
def test_members_of_every_packing(tmp_path: Path, ending: str) -> None:
    data = tar(
        special("./usr/", tarfile.DIRTYPE),
        file("./usr/bin/demo", b"program", 0o755),
        file("./usr/lib/odd", b"odd"),
        special("./usr/lib/libdemo.so.1", tarfile.SYMTYPE, "libdemo.so.1.0"),
        special("./etc/demo", tarfile.SYMTYPE, "/etc/elsewhere"),
        special("./usr/lib/again", tarfile.LNKTYPE, "./usr/lib/odd"),
    )
    found = read(tmp_path, package(data, ending))
    assert (found.name, found.version) == ("demo", "1:2.0-3+deb11u1")
    assert found.members == (
        Entry("usr/bin/demo", b"program", True, None),
        Entry("usr/lib/odd", b"odd", False, None),
        Entry("usr/lib/libdemo.so.1", b"", False, "libdemo.so.1.0"),
        Entry("etc/demo", b"", False, "/etc/elsewhere"),
        Entry("usr/lib/again", b"odd", False, None),
    )


@pytest.mark.parametrize(
    "member",
    [
        file("../evil"),
        file("./usr/../../evil"),
        file("/etc/passwd"),
        file("a\\b"),
        file("a\nb"),
        special("x", tarfile.LNKTYPE, "../../etc/passwd"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    assert "unsafe member path" in assert_refusal(tmp_path, package(tar(member)))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    assert "neither a file nor a link" in assert_refusal(tmp_path, package(tar(special("dev", kind))))


def test_damage_at_every_byte_count_is_an_error_that_we_know(tmp_path: Path) -> None:
    whole = package(tar(file("./usr/bin/demo", b"program" * 50)))
    for length in range(0, len(whole) - 1, 7):
        assert_refusal(tmp_path, whole[:length])


def test_flipped_bytes_in_the_payload_are_noticed(tmp_path: Path) -> None:
    whole = bytearray(package(tar(file("./usr/bin/demo", b"program" * 50))))
    whole[-30] ^= 0xFF
    assert "damaged" in assert_refusal(tmp_path, bytes(whole))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not an ar archive"),
        (b"<html>404</html>", "not an ar archive"),
        (ar(("debian-binary", b"3.0\n")), "not a Debian package of format 2"),
        (ar(("debian-binary", b"2.0\n")), "no member control.tar"),
        (
            ar(("debian-binary", b"2.0\n"), ("control.tar.lz", b""), ("data.tar.lz", b"")),
            "packed in a way that is not known",
        ),
        (package(b"", control=b"Package: demo\n"), "damaged"),
        (
            ar(("debian-binary", b"2.0\n"), ("control.tar", tar(file("other"))), ("data.tar", tar())),
            "damaged: 'control'",
        ),
        (
            ar(("debian-binary", b"2.0\n"), ("control.tar", tar(file("control", CONTROL)))),
            "no member data.tar",
        ),
    ],
)
def test_what_is_no_package(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in assert_refusal(tmp_path, content)


def test_a_lying_member_size_is_refused(tmp_path: Path) -> None:
    whole = package(tar(file("a")))
    # 60 bytes back is the same header again: without the check the reader would never end.
    for size in (b"-4 ", b"-60"):
        assert "damaged" in assert_refusal(tmp_path, whole.replace(b"4         `\n2.0", size + b"       `\n2.0"))
    assert "damaged" in assert_refusal(tmp_path, whole.replace(b"4         `\n2.0", b"four      `\n2.0"))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_payload_that_ends_early_is_refused(tmp_path: Path, ending: str) -> None:
    packed = PACKERS[ending](tar(file("./usr/bin/demo", bytes(range(256)) * 50)))
    control = gzip.compress(tar(file("./control", CONTROL)))
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", control),
        (f"data.tar{ending}", packed[: len(packed) // 2]),
    )
    assert "damaged" in assert_refusal(tmp_path, ar(*members))


def test_a_payload_in_two_zstd_frames_is_whole(tmp_path: Path) -> None:
    data = tar(file("./a", b"1" * 3000), file("./b", b"2" * 3000))
    packed = PACKERS[".zst"](data[:2000]) + PACKERS[".zst"](data[2000:])
    control = gzip.compress(tar(file("./control", CONTROL)))
    content = ar(("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.zst", packed))
    assert [member.path for member in read(tmp_path, content).members] == ["a", "b"]
