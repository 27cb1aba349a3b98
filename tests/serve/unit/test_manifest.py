from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.checkpoint.manifest import Golden, Manifest, parse_marker
from serve.errors import CheckpointError

SHA256 = "ab" * 32


def test_a_manifest_keeps_unknown_keys():
    stated = {"sha256": SHA256, "size": 5, "version": "v1", "format": "torch", "metrics": {"f1": 1}, "by": "me"}
    expected = Manifest(SHA256, 5, "v1", None, "torch", metrics={"f1": 1}, rest={"by": "me"})
    assert parse_marker(json.dumps(stated).encode()) == expected


def test_golden_requests_are_read():
    stated = {"sha256": SHA256, "generation": 7, "golden": [{"inputs": [[1]], "outputs": [[2]], "atol": 0}]}
    manifest = parse_marker(json.dumps(stated).encode())
    assert (manifest.generation, manifest.golden) == (7, (Golden([[1]], [[2]], atol=0),))


@pytest.mark.parametrize("text", [b"", b" \n"])
def test_an_empty_marker_states_nothing(text):
    assert parse_marker(text) == Manifest()


def test_all_issues_of_a_marker_are_named():
    with pytest.raises(CheckpointError, match="size: expected a number of bytes, found True"):
        parse_marker(json.dumps({"sha256": SHA256, "size": True}).encode())
    stated = {
        "sha256": "AB",
        "size": -1,
        "version": "a b\r\n",
        "created": 5,
        "format": "onnx",
        "generation": True,
        "metrics": {"f1": "high"},
        "signature": "me",
        "golden": 5,
    }
    with pytest.raises(CheckpointError) as caught:
        parse_marker(json.dumps(stated).encode())
    assert all(f"{key}: expected" in caught.value.message for key in stated)


@pytest.mark.parametrize("text", [b"{}", b'{"size": 5}', b"[]", b"5", b"true", b"[" * 100_000, b"\xff\xfe"])
def test_markers_that_prove_nothing_are_refused(text):
    with pytest.raises(CheckpointError):
        parse_marker(text)


KEYS = st.sampled_from(["sha256", "size", "version", "format", "generation", "metrics", "golden", "signature", "other"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.just(SHA256)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.binary() | st.dictionaries(KEYS, VALUES).map(lambda stated: json.dumps(stated).encode()))
def test_no_marker_can_raise_anything_else(text):
    with contextlib.suppress(CheckpointError):
        parse_marker(text)


def test_what_sha256sum_writes_is_read(tmp_path):
    path = tmp_path / "a b.safetensors"
    path.write_bytes(b"weights")
    for option in ("--text", "--binary"):
        text = subprocess.run(["sha256sum", option, path.name], cwd=tmp_path, check=True, stdout=-1).stdout
        assert parse_marker(text).sha256 == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "new\nline").write_bytes(b"weights")  # sha256sum escapes such names
    text = subprocess.run(["sha256sum", "new\nline"], cwd=tmp_path, check=True, stdout=-1).stdout
    assert parse_marker(text).sha256 == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("text", [b"done\n", SHA256.encode(), f"{SHA256}  a\n{SHA256}  b\n".encode()])
def test_other_texts_are_refused_with_a_hint(text):
    with pytest.raises(CheckpointError, match="neither empty nor JSON") as caught:
        parse_marker(text)
    assert "sha256sum FILE > FILE.done" in caught.value.hint
