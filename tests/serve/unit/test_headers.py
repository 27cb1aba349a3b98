"""safetensors headers of every length and dtype: at publish and at load, plain, sharded and remote."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import SUPPORT
from trainer import ROW, sha256_of

from serve.checkpoint.formats import SAFETENSORS, TORCH, detect_format, read_safetensors_interface
from serve.checkpoint.manifest import Manifest
from serve.publishing.publish import publish
from serve.settings.settings import load_settings
from serve.source.local import LocalSource
from serve.source.observation import Known, decide
from serve.source.remote import make_place
from serve.store.checkpoint_store import Store, Stored

NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def padded(path, length):
    """Lengthen a header with spaces, as writers do that align the data."""
    content = path.read_bytes()
    (stated,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + stated].rstrip()
    path.write_bytes(struct.pack("<Q", length) + text.ljust(length) + content[8 + stated :])
    return path


def described(path, name, metadata):
    text = json.dumps({"__metadata__": {"step": metadata}, name: ENTRY}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    return path


def test_every_low_byte_of_a_length(tmp_path):
    for length in (256 * high + low for high in (1, 2, 0x4B) for low in range(256)):
        path = padded(described(tmp_path / "m", "w", "x"), length)
        assert detect_format(path) == SAFETENSORS, length
        assert read_safetensors_interface(path)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 100_000_000))
def test_every_length_that_the_format_allows(length):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.flush()
        assert detect_format(Path(file.name)) == SAFETENSORS


def test_pickles_of_every_protocol_are_told_apart(tmp_path):
    import pickle

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "m.safetensors"
        path.write_bytes(pickle.dumps({"w": [1.0] * 40}, protocol))
        assert detect_format(path) == TORCH


def test_a_plain_file_is_published_as_its_own_bytes(tmp_path):
    for length in range(100, 356):
        path = padded(described(tmp_path / "m.safetensors", "w", "x"), length)
        published = publish(path, tmp_path / "ck")
        assert published.format == SAFETENSORS, length
        assert Path(published.checkpoint).read_bytes() == path.read_bytes()


@pytest.mark.needs_torch
@pytest.mark.parametrize("residue", [0, 0x50, 0x80, 0xF8])
def test_each_is_loaded(tmp_path, trainer, residue):
    pytest.importorskip("torch")
    from serve.model.loader import ModelLoader

    path = trainer.train(1)
    right = trainer.expected(sha256_of(path))
    padded(path, 1024 + residue)
    published = publish(path, trainer.directory)
    assert published.sha256 == sha256_of(path)
    environ = {"SERVE_MODEL": "affine:Affine", "SERVE_CHECKPOINTS": "ck", "SERVE_PYTHON_PATH": str(SUPPORT)}
    loader = ModelLoader(load_settings(environ, tmp_path).find())
    stored = Stored(Path(published.checkpoint), published.sha256, published.size)
    assert loader.load(stored, Manifest(format="safetensors")).predictor.predict([ROW]) == [right]


def test_shards_and_what_they_are_joined_to(tmp_path):
    residues = set()
    for count in range(1, 260, 8):
        work = tmp_path / str(count)
        work.mkdir()
        described(work / "a.safetensors", "n" * count, "x" * count)
        index = work / "m.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"by": "me"}, "weight_map": {"n" * count: "a.safetensors"}}))
        published = publish(index, work / "ck")
        shard = next((work / "ck").glob("*-of-*"))
        assert shard.read_bytes() == (work / "a.safetensors").read_bytes()
        assert json.loads(Path(published.checkpoint).read_bytes())["metadata"] == {"by": "me"}
        ((seen),) = LocalSource(work / "ck").observe()
        joined = Store(work / "store").admit(decide(seen, NOTHING, 100.0, 0.0)).path
        residues.add(joined.read_bytes()[0])
        assert detect_format(joined) == SAFETENSORS
        assert list(read_safetensors_interface(joined)) == ["n" * count]
    assert residues == set(range(0, 256, 8))


def test_a_remote_file(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
    system = fsspec.filesystem("memory")
    system.store.clear()
    path = padded(described(tmp_path / "m.safetensors", "w", "x"), 128)
    publish(path, tmp_path / "ck")
    for name in ("m.safetensors", "m.safetensors.done"):
        system.pipe_file(f"/headers/{name}", (tmp_path / "ck" / name).read_bytes())
    ((seen),) = make_place(Path("memory://headers")).observe()
    stored = Store(tmp_path / "store").admit(decide(seen, NOTHING, 100.0, 0.0))
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detect_format(stored.path) == SAFETENSORS


@pytest.mark.needs_torch
def test_a_pickle_that_is_named_as_safetensors_is_converted(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.safetensors"
    torch.save({"w": torch.ones(2)}, str(path))
    assert detect_format(path) == TORCH
    from serve.publishing.publish import Extras

    published = publish(path, tmp_path / "ck", extras=Extras(convert=True))
    assert read_safetensors_interface(Path(published.checkpoint))
