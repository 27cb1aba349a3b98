from __future__ import annotations

import hashlib
import json
import os
import struct

import numpy
import pytest
import safetensors.numpy
from trainer import mark

from serve.checkpoint import sharded
from serve.checkpoint.formats import read_safetensors_interface
from serve.errors import CheckpointError, CheckpointMovedError
from serve.publishing.publish import publish
from serve.source.local import LocalSource
from serve.source.observation import Ignore, Known, Load, Wait, decide
from serve.store.checkpoint_store import Store

STATE = {
    "b": numpy.arange(3, dtype="float32"),
    "a": numpy.arange(5, dtype="int8"),
    "c": numpy.arange(4, dtype="float64").reshape(2, 2),
    "empty": numpy.zeros((0, 2), "float32"),
}
NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)


@pytest.fixture
def index(tmp_path):
    """As Hugging Face's `save_pretrained` lays it out."""
    directory = tmp_path / "trained"
    directory.mkdir()
    parts = {"model-00001-of-00002.safetensors": ["b", "a"], "model-00002-of-00002.safetensors": ["c", "empty"]}
    for shard, names in parts.items():
        arrays = {name: STATE[name] for name in names}
        safetensors.numpy.save_file(arrays, str(directory / shard), metadata={"format": "pt"})
    weight_map = {name: shard for shard, names in parts.items() for name in names}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 49}, "weight_map": weight_map}))
    return path


def joined(tensors=("c", "b", "empty", "a")):
    """The joined file, written again from its description."""
    entries, data = {}, b""
    for name in tensors:
        array = STATE[name]
        dtype = {"float64": "F64", "float32": "F32", "int8": "I8"}[str(array.dtype)]
        begin, data = len(data), data + array.tobytes()
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


# An empty tensor has no element size, so it stands last.
JOINED = joined(("c", "b", "a", "empty"))


def test_the_joined_file_is_as_described(index, tmp_path):
    copied = sharded.join_hashed(index, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == JOINED
    assert copied.sha256 == sharded.hash_joined(index) == hashlib.sha256(JOINED).hexdigest()
    assert copied.size_bytes == len(JOINED)
    loaded = safetensors.numpy.load_file(str(tmp_path / "joined"))
    assert {name: array.tolist() for name, array in loaded.items()} == {k: v.tolist() for k, v in STATE.items()}
    assert set(read_safetensors_interface(tmp_path / "joined")) == set(STATE)


def test_published_shards_can_be_loaded(index, tmp_path):
    place = tmp_path / "place"
    published = publish(index, place, "model_v2.safetensors.index.json", "2")
    names = sorted(path.name for path in place.iterdir())
    assert names == [
        "model_v2-00001-of-00002.safetensors",
        "model_v2-00002-of-00002.safetensors",
        "model_v2.safetensors.index.json",
        "model_v2.safetensors.index.json.done",
    ]
    (seen,) = LocalSource(place).observe()
    action = decide(seen, NOTHING, 100.0, 0.0)
    assert isinstance(action, Load), action
    stored = Store(tmp_path / "store").admit(action)
    assert stored.path.read_bytes() == JOINED
    assert stored.sha256 == published.sha256


def test_a_shard_that_changes_is_seen(index, tmp_path):
    publish(index, tmp_path / "place")
    (before,) = LocalSource(tmp_path / "place").observe()
    shard = tmp_path / "place" / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes())
    os.utime(shard, (4e9, 4e9))
    (after,) = LocalSource(tmp_path / "place").observe()
    assert before.fingerprint != after.fingerprint
    assert isinstance(decide(after, NOTHING, 0.0, 1.0), Wait)
    with pytest.raises(CheckpointMovedError):
        Store(tmp_path / "store").admit(decide(before, NOTHING, 0.0, 0.0))


def test_an_empty_marker_is_older_than_a_shard(index):
    mark(index)
    os.utime(index.with_name("model-00001-of-00002.safetensors"), (4e9, 4e9))
    (seen,) = LocalSource(index).observe()
    assert decide(seen, NOTHING, 100.0, 0.0) == Ignore("its empty marker is older than the checkpoint", is_waiting=True)


def test_a_shard_that_is_not_there_yet(index):
    mark(index)
    index.with_name("model-00001-of-00002.safetensors").unlink()
    (seen,) = LocalSource(index).observe()
    assert isinstance(decide(seen, NOTHING, 100.0, 0.0), Ignore)


def test_bytes_of_a_shard_are_covered_by_the_hash(index, tmp_path):
    publish(index, tmp_path / "place")
    shard = tmp_path / "place" / "model-00001-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (seen,) = LocalSource(tmp_path / "place").observe()
    with pytest.raises(CheckpointError, match="the sha256: expected"):
        Store(tmp_path / "store").admit(decide(seen, NOTHING, 100.0, 0.0))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (5, "expected"),
        ({"b": "../escape.safetensors"}, "expected shards beside it"),
        ({"b": "/etc/passwd"}, "expected shards beside it"),
        ({"b": 5}, "expected shards beside it"),
        ({"b": "model-00001-of-00002.safetensors"}, "not in the index"),
        (
            dict.fromkeys(("a", "b", "d"), "model-00001-of-00002.safetensors"),
            "d: expected in model-00001-of-00002.safetensors, found nothing",
        ),
    ],
)
def test_an_index_that_does_not_fit_its_shards(index, tmp_path, weight_map, message):
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        sharded.hash_joined(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "5"])
def test_what_is_no_index(index, text):
    index.write_text(text)
    with pytest.raises(CheckpointError):
        sharded.hash_joined(index)
    mark(index)
    assert len(list(LocalSource(index).observe())) == 1
