"""Files from outside with some of their bytes changed: each is read or refused by a known error, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.artifacts.conda_archive import read_info, read_payload
from envtool.artifacts.file_manifest import FileManifests
from envtool.audit import osv
from envtool.audit.audit import audit as audit_lock
from envtool.audit.audit import is_allowed, unjudged
from envtool.errors import EnvtoolError
from envtool.image.layout import Layout
from envtool.inspect_lock.graph import graph
from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile, parse_lockfile
from envtool.prefix.layout import layout
from envtool.prefix.prefix import Prefix
from envtool.signing import dsse
from envtool.spec.environment_yml import parse as parse_environment
from serve.checkpoint.formats import read_safetensors_interface
from serve.checkpoint.manifest import parse_marker, publisher_of
from serve.checkpoint.signature import with_bundle
from serve.errors import CheckpointError
from tests.support.archives import PLACEHOLDER, Archive, File, lock_of, locked
from tests.support.edits import edited, edits

_MOST_BYTES = 64 << 20

ENVIRONMENT = b"""name: x
channels: [conda-forge]
platforms: [linux-64]
dependencies:
  - python=3.9  # [linux and not win]
  - pip:
    - flask>=2 ; python_version < "3.10"
"""
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}).encode()
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 8
MARKER = json.dumps({"sha256": "ab" * 32, "size": 5, "golden": [{"inputs": [1], "outputs": [2]}], "metrics": {"a": 1}})
STATEMENT = json.dumps({"_type": dsse.STATEMENT_TYPE, "predicate": {"resources": [{"name": ".", "digest": "ab"}]}})
ENVELOPE = {
    "payload": base64.b64encode(STATEMENT.encode()).decode(),
    "payloadType": dsse.PAYLOAD_TYPE,
    "signatures": [],
}
RECORD = {
    "id": "X-1", "modified": "2026-01-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "flask"},
                  "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}]}],
}  # fmt: skip


def archive() -> tuple[bytes, Path]:
    with tempfile.TemporaryDirectory() as place:
        path = Archive("tool", {"bin/tool": File(b"x" * 100, 0o755), "lib/x": File(link="y"), "lib/y": File()})
        written = path.write(Path(place))
        return written.read_bytes(), Path(written.name)


ARCHIVE, ARCHIVE_NAME = archive()


def lock() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        written = Archive("tool", {"bin/tool": File()}).write(Path(place))
        return format_lockfile(lock_of(locked(written))).encode()


def read_archive(path: Path) -> None:
    renamed = path.rename(path.with_name(ARCHIVE_NAME.name))
    try:
        read_payload(renamed)
        read_info(renamed, ["index.json", "paths.json"])
    finally:
        renamed.rename(path)


def audit(path: Path) -> None:
    database = osv.read(path, {("PyPI", "flask")})
    list(database.find({("PyPI", "flask"): "1.0"}))


FLASK = LockedPackage("pip", "flask", "1.0", "linux-64", "https://example.org/flask-1.0-py3-none-any.whl", "0" * 64)
GRAPH = graph(lock_of(FLASK), "linux-64", ("main",))
VEX = json.dumps({
    "@context": "https://openvex.dev/ns/v0.2.0",
    "statements": [{"vulnerability": {"name": "CVE-1", "aliases": ["X-1"]}, "products": [{"@id": "pkg:pypi/flask@1.0"}],
                    "status": "not_affected", "justification": "j", "expires": "2027-01-31"}],
}).encode()  # fmt: skip


def read_vex(path: Path) -> None:
    database = path.with_name("database.json")
    database.write_text(json.dumps([RECORD]))
    audit_lock(GRAPH, database, path)


def read_layout(path: Path) -> None:
    root = path.with_name("layout")
    root.mkdir(exist_ok=True)
    (root / "index.json").write_bytes(path.read_bytes())
    Layout(root).manifests()


def read_bundle(path: Path) -> None:
    (path.with_name("m.sig")).write_bytes(path.read_bytes())
    parse_marker(with_bundle(b"", path.with_name("m")))


def read_receipt(path: Path) -> None:
    prefix = Prefix(path.with_name("prefix"))
    (prefix.meta / "envserve.d").mkdir(parents=True, exist_ok=True)
    (prefix.meta / "envserve").write_text(json.dumps({**PART, "platform": "x", "categories": [], "parts": ["a.json"]}))
    (prefix.meta / "envserve.d/a.json").write_bytes(path.read_bytes())
    receipt = prefix.receipt()
    part = json.loads(path.read_bytes())
    own = [PART["packages"][0], *part["packages"]]
    assert [asdict(package) for package in receipt.packages] == own
    assert receipt.generated == {**PART["generated"], **part["generated"]}


PART: dict[str, Any] = {
    "packages": [{"manager": "conda", "name": "a", "version": "1", "sha256": "0"}],
    "generated": {"a": "0"},
}
INDEX = json.dumps({"manifests": [{"mediaType": "x", "digest": "sha256:ab", "size": 1}]}).encode()
READERS: dict[str, tuple[bytes, Callable[[Path], Any], type[Exception]]] = {
    "lock": (lock(), lambda path: parse_lockfile("x", path.read_bytes().decode("utf-8", "replace")), EnvtoolError),
    "environment": (
        ENVIRONMENT,
        lambda path: parse_environment(path, path.read_text("utf-8", "replace")),
        EnvtoolError,
    ),
    "archive": (ARCHIVE, read_archive, EnvtoolError),
    "database": (json.dumps([RECORD]).encode(), audit, EnvtoolError),
    "vex": (VEX, read_vex, EnvtoolError),
    "layout": (INDEX, read_layout, EnvtoolError),
    "receipt": (json.dumps(PART).encode(), read_receipt, EnvtoolError),
    "safetensors": (SAFETENSORS, read_safetensors_interface, CheckpointError),
    "marker": (MARKER.encode(), lambda path: publisher_of(parse_marker(path.read_bytes())), CheckpointError),
    "bundle": (json.dumps({"dsseEnvelope": ENVELOPE}).encode(), read_bundle, CheckpointError),
    "envelope": (
        json.dumps(ENVELOPE).encode(),
        lambda path: dsse.unseal(json.loads(path.read_bytes()), []),
        ValueError,
    ),
}


def assert_read_or_refused(name: str, steps: list[tuple[str, float, bytes]]) -> None:
    content, read, known = READERS[name]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "file.json"
        path.write_bytes(edited(content, steps))
        tracemalloc.start()
        try:
            read(path)
        except known:
            pass
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < _MOST_BYTES


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    content, read, _ = READERS[name]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    if name in ("bundle", "envelope"):  # signed by nobody
        with pytest.raises(READERS[name][2]):
            read(path)
    else:
        read(path)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=edits)
def test_what_is_damaged_is_read_or_refused(name: str, steps: list[tuple[str, float, bytes]]) -> None:
    assert_read_or_refused(name, steps)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["MIT", "GPL-3.0-only", "GPLv3", "or later", "é", *"()|+,", " OR ", " AND ", " WITH "]))
)
def test_any_text_is_a_licence(words: list[str]) -> None:
    text = "".join(words)
    assert is_allowed(text, [], [])
    is_allowed(text, ["MIT", text], ["GPL-3.0-only"])
    unjudged({"a": text})


ODD: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1e400,
        float("nan"),
        1.5,
        2**70,
        "",
        "x",
        "a b",
        "\0",
        "../x",
        "sha256:ab",
        "é" * 300,
        "9" * 5000,
    ),
    *([], [[]], [None], ["x"], [1], [{}], {}, {"a": 1}, {"": None}, {"name": []}),
]


def each_replaced(value: Any) -> Iterator[Any]:
    """The value with every part of it, itself included, replaced by each odd one."""
    yield from ODD
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: new} for new in each_replaced(part))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from ([*value[:number], new, *value[number + 1 :]] for new in each_replaced(part))


def in_safetensors(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 8


FORMS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "lock": (yaml.safe_load, lambda value: yaml.safe_dump(value).encode()),
    "environment": (yaml.safe_load, lambda value: yaml.safe_dump(value).encode()),
    "safetensors": (lambda content: json.loads(content[8:-8]), in_safetensors),
}


@pytest.mark.parametrize("name", [name for name in READERS if name != "archive"])
def test_what_has_an_odd_value_is_read_or_refused(name: str, tmp_path: Path) -> None:
    content, read, known = READERS[name]
    load, dump = FORMS.get(name, (json.loads, lambda value: json.dumps(value).encode()))
    path = tmp_path / "file.json"
    count = 0
    for value in each_replaced(load(content)):
        path.write_bytes(dump(value))
        with contextlib.suppress(known):
            read(path)
        count += 1
    assert count > len(ODD) * 3


class Told(Archive):
    """An archive that tells something else about itself in one of its files."""

    told: ClassVar[dict[str, bytes]] = {}

    def info(self) -> dict[str, bytes]:
        return {**super().info(), **self.told}


@pytest.mark.parametrize("odd", [ODD[1:2], pytest.param(ODD, marks=pytest.mark.nightly)])
def test_an_archive_that_tells_odd_things_of_itself_is_read_or_refused(
    odd: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ODD", odd)
    script = File(f"{PLACEHOLDER}/x".encode(), 0o755, prefix="text")
    archive = Told("tool", {"bin/tool": script, "lib/x": File(link="y"), "lib/y": File()}, noarch="python")
    for name, content in archive.info().items():
        for number, value in enumerate(each_replaced(json.loads(content))):
            monkeypatch.setattr(Told, "told", {name: json.dumps(value).encode()})
            path = archive.write(tmp_path)
            package, manifests = locked(path), FileManifests(tmp_path / f"{name}{number}".replace("/", "-"))
            with contextlib.suppress(EnvtoolError):
                manifests.keep(str(package.sha256), "conda", path)
                layout([package], manifests)


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=edits)
def test_what_is_damaged_is_read_or_refused_many_times(name: str, steps: list[tuple[str, float, bytes]]) -> None:
    assert_read_or_refused(name, steps)
