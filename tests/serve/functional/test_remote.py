"""Watched places of fsspec: in memory, and on a real S3 server on the loopback."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from object_storage import start_s3
from trainer import ROW

from serve.__main__ import main
from serve.checkpoint import sharded
from serve.errors import CheckpointMovedError, ModelError, PublishError, SignatureError
from serve.publishing import remote_publish
from serve.publishing.publish import Extras, publish
from serve.publishing.remote_publish import explained
from serve.source.observation import Known, Load, Refuse, decide
from serve.source.remote import make_place, url_of
from serve.store.checkpoint_store import Store
from tests.support.ssh_server import SSHD, ssh_server

fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)


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


class RefusedByStorage(OSError):
    """As those of gcsfs and aiohttp: `message` is only a part of what the error says."""

    message = "Forbidden"


def test_all_that_an_error_of_a_storage_says_is_shown():
    with pytest.raises(PublishError) as caught, explained("gs://bucket", "check it"):
        raise RefusedByStorage("Forbidden, 403, for gs://bucket/x")
    assert (caught.value.message, caught.value.hint) == ("gs://bucket: Forbidden, 403, for gs://bucket/x", "check it")


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


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with start_s3(tmp_path_factory.mktemp("moto") / "log") as system:
        yield system


@pytest.fixture
def ftp_url(tmp_path):
    """A directory of a real FTP server."""
    servers = pytest.importorskip("pyftpdlib.servers", reason="pyftpdlib is not installed")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler

    users = DummyAuthorizer()
    users.add_user("me", "secret", str(tmp_path), perm="elradfmwMT")
    server = servers.FTPServer(("127.0.0.1", 0), type("Handler", (FTPHandler,), {"authorizer": users}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.1, "handle_exit": False})
    thread.start()
    yield f"ftp://me:secret@127.0.0.1:{server.address[1]}/models"
    server.ioloop.call_later(0, server.close_all)
    thread.join(20)


@pytest.fixture
def sftp_url(tmp_path):
    """A directory of a real OpenSSH server."""
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    if SSHD is None:
        pytest.skip("sshd is not installed")
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server, pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "sftp", {"key_filename": str(server.directory / "client")})
        yield f"{server.url.replace('ssh:', 'sftp:')}{tmp_path}/models"


@pytest.mark.needs_torch
def test_a_server_follows_an_s3_bucket(s3, trainer, start_server, capsys):
    first = publish(trainer.train(1), "s3://bucket/ck", "m1.safetensors")
    server = start_server(checkpoints="s3://bucket/ck")
    server.wait_live(1)
    assert server.client().predict([ROW]).sha256 == first.sha256
    main(["publish", str(trainer.train(2)), "--to", "s3://bucket/ck", "--name", "m2.safetensors"])
    assert "published s3://bucket/ck/m2.safetensors" in capsys.readouterr().out
    server.wait_live(2)
    reply = server.client().predict([ROW])
    assert reply.json["outputs"] == [trainer.expected(reply.sha256)]
    assert reply.sha256 != first.sha256


@pytest.fixture(params=["memory", "s3", "ftp", "sftp"])
def url(request):
    """A place of each kind, empty."""
    if request.param in ("ftp", "sftp"):
        return request.getfixturevalue(f"{request.param}_url")
    request.getfixturevalue(request.param)
    return "s3://bucket/kinds" if request.param == "s3" else "memory://kinds"


def first_of(url):
    """What a server would serve: its name, its decision and its bytes' source."""
    place = make_place(Path(url))
    seen = place.look_at(place.list()[0])
    action = decide(seen, NOTHING, 100.0, 0.0)
    assert isinstance(action, Load), action
    return seen, action


def test_each_kind_of_place_takes_what_is_published_last_for_the_newest(url, trainer, tmp_path):
    """At once, so that times in seconds are the same: a later name, an earlier one, one that is there already."""
    for seed, name in ((1, "b"), (2, "a"), (3, "c"), (4, "b")):
        published = publish(trainer.train(seed), url, f"{name}.safetensors")
        seen, action = first_of(url)
        assert (seen.path.name, published.generation, published.outranked_by) == (f"{name}.safetensors", 0, None)
        assert Store(tmp_path / f"store{seed}").admit(action).path.read_bytes() == trainer.train(seed).read_bytes()
    assert "secret" not in published.checkpoint
    assert "secret" not in str(make_place(Path(url)).path)


def test_a_place_that_is_one_checkpoint_is_published_to_with_the_same_words(url, trainer, tmp_path):
    for place in (f"{url}/latest.safetensors", f"{tmp_path}/ck/latest.safetensors"):
        for seed in (1, 2):
            publish(trainer.train(seed), place)
            seen, action = first_of(place)
            assert not make_place(Path(place)).is_directory
            assert Store(tmp_path / f"store{seed}").admit(action).sha256 == trainer.sha256(seed)
        assert seen.path.name == "latest.safetensors"
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        "latest.safetensors",
        "latest.safetensors.done",
    ]
    (tmp_path / "dir.pt").mkdir()
    assert publish(trainer.train(1), tmp_path / "dir.pt").checkpoint == str(tmp_path / "dir.pt" / "model.safetensors")


@pytest.mark.parametrize("prefix", [None, "net."])
def test_shards_become_the_file_that_they_are_the_same_as(url, tmp_path, prefix):
    names = {name: numpy.full(3, name_at, "float32") for name_at, name in enumerate(("net.a", "net.b", "other.c"))}
    for place, (name, array) in enumerate(names.items()):
        safetensors.numpy.save_file({name: array}, str(tmp_path / f"m-{place}.safetensors"))
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"m-{at}.safetensors" for at, name in enumerate(names)}}))
    published = publish(index, url, extras=Extras(strip_prefix=prefix))
    assert published.checkpoint.endswith("/m.safetensors")
    assert "joined the shards into one file" in published.notes
    stored = Store(tmp_path / "store").admit(first_of(url)[1])
    found = {name: array[0] for name, array in safetensors.numpy.load_file(str(stored.path)).items()}
    assert found == ({"net.a": 0, "net.b": 1, "other.c": 2} if prefix is None else {"a": 0, "b": 1})
    if prefix is None:
        assert stored.sha256 == published.sha256 == sharded.hash_joined(index)


def test_shards_that_other_tools_sent_are_read(url, tmp_path):
    """A directory of shards, copied file by file; and one index that is watched by itself."""
    state = {name: numpy.full(3, at, "float32") for at, name in enumerate("abc")}
    directory = tmp_path / "saved"
    directory.mkdir()
    for name, array in state.items():
        safetensors.numpy.save_file({name: array}, str(directory / f"m-{name}.safetensors"))
    index = directory / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"m-{name}.safetensors" for name in state}}))
    published = publish(index, tmp_path / "local")
    index = Path(published.checkpoint)
    system, path = fsspec.core.url_to_fs(url)
    system.makedirs(path, exist_ok=True)
    first, *most = sorted(index.parent.iterdir())
    for file in most:
        system.pipe_file(f"{path}/{file.name}", file.read_bytes())
    for watched in (url, f"{url}/{index.name}"):
        place = make_place(Path(watched))
        assert place.look_at(place.list()[0]).checkpoint is None, "a shard has not come yet"
    system.pipe_file(f"{path}/{first.name}", first.read_bytes())
    for at, watched in enumerate((url, f"{url}/{index.name}")):
        _, action = first_of(watched)
        store = Store(tmp_path / f"store{at}")
        assert store.admit(action).sha256 == published.sha256 == sharded.hash_joined(index)
        assert list((store.root / "incoming").iterdir()) == []
    system.pipe_file(f"{path}/{first.name}", first.read_bytes()[:-1])
    with pytest.raises(CheckpointMovedError):
        Store(tmp_path / "other").admit(action)
    system.pipe_file(f"{path}/{index.name}", b"{}")
    place = make_place(Path(url))
    assert "weight_map" in place.look_at(place.list()[0]).problem


@pytest.mark.parametrize(
    ("beside", "generation", "outranked_by", "stated"),
    [
        ([(0, -3600, "a")], 0, None, 0),
        ([(0, 3600, "zz"), (0, 1800, "a")], 0, None, 1),  # no time can outrank it
        ([(7, 5, "a"), (0, 3600, "zz")], 0, None, 8),
        ([(7, -5, "a"), (0, 3600, "zz")], 0, None, 7),
        ([(7, 3600, "zz")], 7, None, 8),
        ([(7, 3600, "a")], 9, None, 9),
        ([(7, 3600, "a")], 5, "a", 5),
        ([], 5, None, 5),
    ],
)
def test_it_outranks_what_is_there_or_says_that_it_does_not(memory, trainer, beside, generation, outranked_by, stated):
    for number, in_s, name in beside:
        memory.pipe_file(f"/ck/{name}", b"")
        memory.pipe_file(f"/ck/{name}.done", json.dumps({"generation": number}).encode())
        memory.store[f"/ck/{name}.done"].created = datetime.fromtimestamp(time.time() + in_s, timezone.utc)
    published = publish(trainer.train(1), "memory://ck", "mine", extras=Extras(generation=generation))
    (first, *_) = make_place(Path("memory://ck")).list()
    assert (first.path.name == "mine") is (outranked_by is None)
    assert (published.outranked_by, published.generation) == (outranked_by, stated)
    assert json.loads(memory.cat_file("/ck/mine.done")).get("generation", 0) == stated


def test_what_is_wrong_is_found_before_anything_is_changed(memory, trainer, tmp_path):
    publish(trainer.train(1), "memory://ck")
    before = {name: memory.cat_file(name) for name in memory.find("/")}
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps([{"inputs": "x" * 2**20, "outputs": 1}]))
    for extras in (Extras(golden=golden), Extras(key=tmp_path / "no.key"), Extras(strip_prefix="none.")):
        with pytest.raises((PublishError, SignatureError)):
            publish(trainer.train(2), "memory://ck", extras=extras)
    assert {name: memory.cat_file(name) for name in memory.find("/")} == before


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


@pytest.mark.parametrize("changes", [False, True])
def test_an_upload_to_s3_that_was_stopped_goes_on(s3, tmp_path, monkeypatch, changes):
    system = fsspec.filesystem("s3")
    system.makedirs("bucket", exist_ok=True)
    monkeypatch.setattr(remote_publish, "_PART_BYTES", 5 * 2**20)
    path, target = tmp_path / "big.safetensors", f"s3://bucket/resumed-{changes}"
    numbers = numpy.arange(6 * 2**20, dtype="int32")
    safetensors.numpy.save_file({"a": numbers}, str(path))
    sent, call = [], type(system).call_s3

    def watch(self, method, *given, **named):
        if method == "upload_part":
            if not sent.count(None) and len(sent) == 3:
                sent.append(None)
                raise OSError("the network is gone")
            sent.append(named["PartNumber"])
        return call(self, method, *given, **named)

    monkeypatch.setattr(type(system), "call_s3", watch)
    with pytest.raises(PublishError, match="the network is gone"):
        publish(path, target)
    if changes:  # other numbers from the second part on
        numbers[3 * 2**20 :] += 1
        safetensors.numpy.save_file({"a": numbers}, str(path))
    published = publish(path, target)
    assert sent == [1, 2, 3, None, *([3] if changes else []), 4, 5]
    assert system.cat_file(published.checkpoint.partition("://")[2]) == path.read_bytes()
    # Small files, and those whose parts are all there, go as before.
    assert publish(path, target).sha256 == published.sha256


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
