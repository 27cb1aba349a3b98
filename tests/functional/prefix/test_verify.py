"""`envtool verify` and `create --repair` on a prefix that somebody changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.functional.prefix.conftest import Channel, User


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


CHANGES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "altered": ("mismatched", "lib/libx.so.1", lambda path: path.write_bytes(b"other")),
    "altered after the prefix": ("mismatched", "bin/tool", lambda path: path.write_bytes(path.read_bytes() + b"#\n")),
    "altered binary": ("mismatched", "lib/tool.so", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!")),
    "removed": ("missing", "share/old.txt", Path.unlink),
    "removed link": ("missing", "lib/libx.so", Path.unlink),
    "added": ("extra", "share/new/deep", lambda path: (path.parent.mkdir(), path.write_text("new"))),
    "link to elsewhere": ("mismatched", "lib/libx.so", relink),
    "file for a link": ("mismatched", "lib/libx.so", lambda path: (path.unlink(), path.write_bytes(b"library" * 1000))),
    "not executable": ("mismatched", "bin/old", lambda path: path.chmod(0o644)),
    "executable": ("mismatched", "share/x", lambda path: path.chmod(0o755)),
}


@pytest.fixture
def prefix(user: User, channel: Channel) -> Path:
    user.write_lock(*channel.all)
    user.run("create", "-p", user.home / "env")
    return user.home / "env"


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_found_and_mended(user: User, prefix: Path, name: str) -> None:
    before = json.loads(user.run("verify", "-p", prefix, "--json").stdout)
    assert before["is_equal"]
    kind, path, change = CHANGES[name]
    change(prefix / path)
    found = json.loads(user.run("verify", "-p", prefix, "--json", code=1).stdout)
    assert [(finding["kind"], finding["what"]) for finding in found["findings"]] == [(kind, path)]
    assert found["env_digest"] != before["env_digest"]
    user.run("create", "-p", prefix, "--repair")
    assert json.loads(user.run("verify", "-p", prefix, "--json").stdout) == before


def test_a_package_that_is_not_of_the_lock(user: User, prefix: Path, channel: Channel) -> None:
    user.write_lock(channel.tool, channel.library)
    assert "extra       old 1.0" in user.run("verify", "-p", prefix, code=1).stdout
    user.write_lock(*channel.all)
    (prefix / "conda-meta/old-1.0-h1_0.json").unlink()
    assert "missing     old 1.0" in user.run("verify", "-p", prefix, code=1).stdout


def test_findings_for_ci(user: User, prefix: Path) -> None:
    (prefix / "share/old.txt").write_text("100% other\n")
    report = user.home / "report.xml"
    out = user.run("verify", "-p", prefix, "--junit", report, "--github", code=1).stdout
    assert out.startswith(f"::error title=envtool verify::mismatched: {prefix}/share/old.txt")
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert "share/old.txt" in (suite.findtext(".//failure") or "")


def test_rebuild_compares_with_a_second_environment(user: User, prefix: Path) -> None:
    user.run("verify", "-p", prefix, "--rebuild")
    # As if installing had generated a file that it does not generate the second time.
    (prefix / "share/generated").write_bytes(b"same here")
    receipt = prefix / "conda-meta/envserve"
    data = json.loads(receipt.read_text())
    data["generated"]["share/generated"] = hashlib.sha256(b"same here").hexdigest()
    receipt.write_text(json.dumps(data))
    user.run("verify", "-p", prefix)
    found = user.run("verify", "-p", prefix, "--rebuild", code=1).stdout
    assert "share/generated  (the rebuilt environment does not have it)" in found
    assert [path.name for path in prefix.parent.iterdir() if path.name.startswith(".env")] == []


def test_a_prefix_without_a_receipt_is_not_verified(user: User, prefix: Path) -> None:
    (prefix / "conda-meta/envserve").unlink()
    assert "was not made by envtool" in user.run("verify", "-p", prefix, code=3).stderr
    assert "not found" in user.run("verify", "-p", prefix / "nowhere", code=3).stderr
