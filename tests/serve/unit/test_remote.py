"""Watched places of fsspec: in memory, and on a real S3 server on the loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import wait_until
from trainer import ROW

from serve.__main__ import main
from serve.errors import CheckpointMovedError, ModelError, PublishError
from serve.publishing.publish import publish
from serve.source.observation import Known, Load, Refuse, decide
from serve.source.remote import make_place, url_of
from serve.store.checkpoint_store import Store

fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/plain/path", None),
        ("plain", None),
        ("a:b", None),
        ("s3://bucket/dir", "s3://bucket/dir"),
        ("memory://dir", "memory://dir"),
        ("file:///dir/x", "file:///dir/x"),
        ("github://me:repo@main/dir", "github://me:repo@main/dir"),
    ],
)
def test_urls_survive_being_paths(path, url):
    assert url_of(Path(path)) == url


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def upload(system, directory, target):
    for path in sorted(directory.iterdir(), key=lambda path: (path.name.endswith(".done"), path.name)):
        system.pipe_file(f"{target}/{path.name}", path.read_bytes())


def looks(place):
    return [(seen, decide(seen, NOTHING, 100.0, 0.0)) for seen in place.observe()]


def test_a_directory_in_memory(memory, trainer, tmp_path):
    place = make_place(Path("memory://ck"))
    assert looks(place) == []
    first = publish(trainer.train(1), trainer.directory, "m1.safetensors")
    second = publish(trainer.train(2), trainer.directory, "m2.safetensors")
    upload(memory, trainer.directory, "/ck")
    (newest, action), (older, _) = looks(place)
    assert (newest.path.name, older.path.name) == ("m2.safetensors", "m1.safetensors")
    assert place.is_directory
    assert isinstance(action, Load)
    stored = Store(tmp_path / "store").admit(action)
    assert stored.sha256 == second.sha256 != first.sha256
    assert stored.path.read_bytes() == memory.cat_file("/ck/m2.safetensors")


def test_one_object_that_is_overwritten(memory, trainer, tmp_path):
    publish(trainer.train(1), trainer.directory, "m.safetensors")
    upload(memory, trainer.directory, "/ck")
    place = make_place(Path("memory://ck/m.safetensors"))
    ((before, action),) = looks(place)
    assert not place.is_directory
    memory.pipe_file("/ck/m.safetensors", b"other")
    with pytest.raises(CheckpointMovedError):
        Store(tmp_path / "store").admit(action)
    ((after, action),) = looks(place)
    assert after.fingerprint != before.fingerprint
    assert isinstance(action, Refuse)
    assert action.code == "size"


def test_a_protocol_that_is_not_there():
    with pytest.raises(ModelError, match="nosuch"):
        list(make_place(Path("nosuch://bucket/x")).observe())


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """moto's server as a process of its own."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    log = tmp_path / "moto.log"
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
    with log.open("wb") as writer:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer)

    def find():
        assert process.poll() is None, log.read_text()
        words = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
        return words[0] if words else None

    try:
        url = wait_until(find, "moto's address", log.read_text).rstrip("/")
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(key, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        system.mkdir("bucket")
        yield system
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.needs_torch
def test_a_server_follows_an_s3_bucket(s3, trainer, start_server, capsys):
    first = publish(trainer.train(1), "s3://bucket/ck", "m1.safetensors")
    server = start_server(checkpoints="s3://bucket/ck")
    server.wait_live(1)
    assert server.client().predict([ROW]).sha256 == first.sha256
    time.sleep(1.1)  # S3 tells times in seconds
    main(["publish", str(trainer.train(2)), "--to", "s3://bucket/ck", "--name", "m2.safetensors"])
    assert "published s3://bucket/ck/m2.safetensors" in capsys.readouterr().out
    server.wait_live(2)
    reply = server.client().predict([ROW])
    assert reply.json["outputs"] == [trainer.expected(reply.sha256)]
    assert reply.sha256 != first.sha256


def test_a_bucket_that_is_missing(s3, trainer):
    with pytest.raises(PublishError, match=r"s3://nosuch/ck: "):
        publish(trainer.train(1), "s3://nosuch/ck")


def test_what_is_published_to_a_url_can_be_loaded(memory, trainer, tmp_path):
    published = publish(trainer.train(1), "memory://ck", version="v1")
    ((seen, action),) = looks(make_place(Path("memory://ck")))
    assert published.checkpoint == "memory://ck/model.safetensors"
    assert action.manifest.sha256 == published.sha256 == Store(tmp_path / "store").admit(action).sha256
    assert publish(trainer.train(1), f"FILE://{trainer.directory}").checkpoint == str(
        trainer.directory / seen.path.name
    )


def test_a_checkpoint_that_is_there_already_is_not_sent_again(memory, trainer, monkeypatch):
    published = publish(trainer.train(1), "memory://ck")
    memory.rm_file("/ck/model.safetensors.done")
    before = memory.modified("/ck/model.safetensors")
    publish(trainer.train(1), "memory://ck")
    assert memory.modified("/ck/model.safetensors") == before
    assert memory.exists("/ck/model.safetensors.done")
    memory.pipe_file("/ck/model.safetensors", b"x" * published.size)  # of the same size, but other bytes
    publish(trainer.train(1), "memory://ck")
    assert memory.modified("/ck/model.safetensors") > before
    assert memory.cat_file("/ck/model.safetensors") == trainer.train(1).read_bytes()


def test_a_publisher_that_breaks_off_leaves_no_marker(memory, trainer, monkeypatch):
    publish(trainer.train(1), "memory://ck")
    other = trainer.train(2)
    monkeypatch.setattr("serve.durable_files.hash_file", lambda path: "0" * 64)
    with pytest.raises(PublishError, match="it changed while it was published"):
        publish(other, "memory://ck")
    assert not memory.exists("/ck/model.safetensors.done")


@pytest.mark.parametrize(
    "url",
    ["nosuch://b/x", "simplecache::s3://b/x", "https://example.org/x", "s3:///", "1a://x/y", "github://me:repo@main/d"],
)
def test_every_other_url_is_an_error_before_a_byte_is_written(trainer, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    source, before = trainer.train(1), sorted(tmp_path.rglob("*"))
    with pytest.raises(PublishError):
        publish(source, url)
    assert main(["publish", str(source), "--to", url]) == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_sharded_checkpoints_are_not_published_to_where_nobody_reads_them(memory, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    with pytest.raises(PublishError, match="sharded checkpoints are not read from a remote place"):
        publish(index, "memory://ck")
    assert memory.find("/") == []
