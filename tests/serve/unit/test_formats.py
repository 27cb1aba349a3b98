from __future__ import annotations

import contextlib
import json
import struct

import numpy
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.checkpoint.formats import (
    TensorSpec,
    compare_interfaces,
    detect_format,
    read_safetensors_interface,
    require_interface,
)
from serve.errors import CheckpointError

W = TensorSpec("F32", (2, 4))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.safetensors"
    state = {"w": numpy.zeros((2, 4), "float32"), "n": numpy.array(3, "int64")}
    safetensors.numpy.save_file(state, str(path), metadata={"by": "test"})
    return path


def test_the_header_states_the_interface(path):
    assert read_safetensors_interface(path) == {"w": W, "n": TensorSpec("I64", ())}


@pytest.mark.parametrize(("start", "format"), [(b"PK\x03\x04", "torch"), (b"\x80\x02", "torch")])
def test_torch_files_are_known_by_their_first_bytes(tmp_path, start, format):
    path = tmp_path / "m.safetensors"
    path.write_bytes(start + b"\0" * 100)
    assert detect_format(path) == format


@pytest.mark.parametrize(
    ("content", "shown"),
    [(b"", "an empty file"), (b"{", "7b"), (b"<html></html>", "3c68746d6c3e3c2f"), (b"\0" * 100, "0" * 16)],
)
def test_other_files_are_refused(tmp_path, content, shown):
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"found {shown}$") as caught:
        detect_format(path)
    assert caught.value.code == "format"


def inspect(path):
    detect_format(path)
    read_safetensors_interface(path)


def test_a_file_cut_at_any_byte_is_refused(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            inspect(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="found 41"):
        read_safetensors_interface(path)


@pytest.mark.parametrize(
    "header",
    [[], {"w": 5}, {"w": {}}, {"w": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}, {"w": {"dtype": "F32"}}],
)
def test_malformed_headers_are_refused(tmp_path, header):
    text = json.dumps(header).encode()
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError):
        read_safetensors_interface(path)


UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # the machine may be busy


@settings(suppress_health_check=UNHURRIED, deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_header_can_raise_anything_else(tmp_path, content, length):
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", length) + b"{" + content)
    with contextlib.suppress(CheckpointError):
        read_safetensors_interface(path)


def test_differences_are_named():
    expected = {"a": W, "b": W, "c": W}
    actual = {"a": W, "b": TensorSpec("F64", (2, 4)), "d": W}
    assert compare_interfaces(expected, actual) == [
        "b: expected F32[2, 4], found F64[2, 4]",
        "c: expected F32[2, 4], missing in the checkpoint",
        "d: not in the module, found F32[2, 4]",
    ]
    require_interface(expected, expected)


def test_many_differences_are_counted():
    with pytest.raises(CheckpointError, match="and 2 more"):
        require_interface({str(number): W for number in range(7)}, {})
