from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainer import mark

from serve.errors import PublishError
from serve.publishing.publish import Extras, publish
from serve.source.local import LocalSource
from serve.source.observation import Ignore, Known, Load, decide

NOTHING = Known(served=None, served_order=None, first_seen_s=0.0)


def actions(directory):
    return [(seen, decide(seen, NOTHING, 100.0, 0.0)) for seen in LocalSource(directory).observe()]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_is_published_can_be_loaded_at_once(trainer):
    path = trainer.train(1)
    published = publish(path, trainer.directory, version="v1")
    assert published.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    marker = json.loads((trainer.directory / "model.safetensors.done").read_bytes())
    assert marker == {
        "sha256": published.sha256,
        "size": path.stat().st_size,
        "version": "v1",
        "created": published.created,
        "format": "safetensors",
    }
    ((_, action),) = actions(trainer.directory)
    assert isinstance(action, Load)
    assert action.manifest.version == "v1"
    assert names(trainer.directory) == ["model.safetensors", "model.safetensors.done"]


def test_name_and_version_have_defaults(trainer, tmp_path):
    published = publish(trainer.train(1), tmp_path / "made" / "here")
    assert published.checkpoint == str(tmp_path / "made" / "here" / "model.safetensors")
    assert published.version == published.sha256[:12]


def test_a_published_file_has_the_rights_of_any_new_file(trainer):
    published = publish(trainer.train(1), trainer.directory)
    plain = trainer.work / "plain"
    plain.write_bytes(b"")
    assert Path(published.checkpoint).stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("name", "version"),
    [("../escape", None), ("a/b", None), (".hidden", None), ("m.done", None), (None, "a b"), (None, ""), ("", "x\n")],
)
def test_names_that_do_not_fit(trainer, name, version):
    with pytest.raises(PublishError):
        publish(trainer.train(1), trainer.directory, name if name != "" else None, version)
    assert names(trainer.directory) == []


def test_what_is_no_checkpoint_is_not_published(trainer, tmp_path):
    path = trainer.train(1)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(PublishError, match="expected 40 bytes of weights after the header, found 39"):
        publish(path, trainer.directory)
    with pytest.raises(PublishError, match="No such file"):
        publish(tmp_path / "nowhere", trainer.directory)
    with pytest.raises(PublishError, match="Is a directory"):
        publish(tmp_path, trainer.directory)
    assert names(trainer.directory) == []


CODE = "import sys;from pathlib import Path;from serve.publishing.publish import publish\n"
CODE += "print('go', flush=True)\nwhile True:\n  publish(Path(sys.argv[1]), Path(sys.argv[3]), 'm')\n"
CODE += "  publish(Path(sys.argv[2]), Path(sys.argv[3]), 'm')"


def test_a_publisher_that_is_killed_leaves_nothing_torn(trainer):
    """Killed at any moment, the place holds the old checkpoint, the new one, or none: never a mixture."""
    files = [trainer.train(seed, f"{seed}.safetensors") for seed in (1, 2)]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for attempt in range(20):
        command = [sys.executable, "-c", CODE, *map(str, files), str(trainer.directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            publisher.stdout.readline()
            time.sleep(0.002 * attempt)
            os.kill(publisher.pid, signal.SIGKILL)
        for seen, action in actions(trainer.directory):
            assert isinstance(action, (Load, Ignore)), action
            if isinstance(action, Load):
                assert hashlib.sha256(seen.path.read_bytes()).hexdigest() == action.manifest.sha256
                assert action.manifest.sha256 in hashes


@pytest.mark.parametrize(
    ("beside", "generation", "outranked_by"),
    [
        ([(0, -3600, "a")], 0, None),
        ([(0, 3600, "a")], 0, None),
        ([(0, 3600, "zz"), (0, 1800, "a")], 0, None),
        ([(7, 5, "a"), (0, 3600, "zz")], 0, None),
        ([(7, 3600, "zz")], 7, None),
        ([(7, 3600, "a")], 8, None),
        ([(7, 3600, "a")], 5, "a"),
        ([], 5, None),
    ],
)
def test_it_outranks_what_lies_beside_it_or_says_that_it_does_not(trainer, beside, generation, outranked_by):
    for number, in_s, name in beside:
        path = trainer.directory / name
        path.write_bytes(b"")
        mark(path, f'{{"generation": {number}}}'.encode())
        at = time.time() + in_s
        os.utime(path.with_name(name + ".done"), (at, at))
    for name in ("mine.safetensors", "mine.safetensors", "aaa.safetensors"):
        published = publish(trainer.train(1), trainer.directory, name, extras=Extras(generation=generation))
        first = LocalSource(trainer.directory).list()[0].path.name
        assert (first == name) is (outranked_by is None)
        assert published.outranked_by == outranked_by
