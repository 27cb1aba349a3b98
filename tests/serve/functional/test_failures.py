"""The failure matrix: whatever comes, the old model serves on, the reason is told, and the next good one is served.

A memory that would not suffice is refused in `test_model_gates`, where it can be had without starving this machine.
ESTALE, and a file server that hangs or goes away, are in `test_network_file_systems`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from serving import wait_until
from trainer import ROW, mark, sha256_of

from serve.publishing.publish import publish

pytestmark = pytest.mark.needs_torch
pytest.importorskip("cryptography", reason="the extra [sign] is not installed")

from serve.checkpoint.signature import sign, write_keys  # noqa: E402


def state(bias=(1.0, 2.0), weight=None, dtype="float32"):
    return {
        "layer.weight": numpy.ones((2, 4), dtype) if weight is None else weight,
        "layer.bias": numpy.array(bias, dtype),
    }


class Bench:
    """A server with two workers, and ways to hand it something bad."""

    def __init__(self, trainer, start_server, key, **settings):
        self.trainer, self.key = trainer, key
        self.good = self.publish_good(1)
        self.server = start_server(verify_key=str(key) + ".pub", **settings)
        self.server.wait_live(1)
        self.count, self.generation = 0, 1

    def publish_good(self, seed):
        path = self.trainer.train(seed)
        published = publish(path, self.trainer.directory, f"good_{seed}.safetensors")
        return self.sign(Path(published.checkpoint), published)

    def sign(self, path, published, **stated):
        marker = path.with_name(path.name + ".done")
        content = {**json.loads(marker.read_bytes()), **stated}
        content.pop("signature", None)
        content = {key: value for key, value in content.items() if value is not None}
        self.replace(marker, json.dumps({**content, "signature": sign(content, self.key)}).encode())
        return published

    def replace(self, marker, content):
        """At once, so that no server reads a half."""
        temporary = marker.with_name(f".{marker.name}.tmp")
        temporary.write_bytes(content)
        temporary.replace(marker)

    def bad(self, content, **stated):
        """Publish some bytes, truly signed."""
        self.count += 1
        path = self.trainer.directory / f"bad_{self.count}.safetensors"
        path.write_bytes(content)
        facts = {"sha256": sha256_of(path), "size": len(content), "version": f"bad{self.count}", **stated}
        facts = {key: value for key, value in facts.items() if value is not None}
        self.replace(
            path.with_name(path.name + ".done"), json.dumps({**facts, "signature": sign(facts, self.key)}).encode()
        )
        return path

    def assert_refused(self, path, code, word):
        """The reason is in the log and in `/model`, and the old model serves on."""

        def find():
            lines = [line for line in self.server.events("refused") if line["checkpoint"].endswith(path.name)]
            return [line for line in lines if line["code"] == code and word in line["reason"]]

        wait_until(find, f"{path.name} refused as {code}: {word}", lambda: self.server.text)
        shown = json.dumps(word)[1:-1]
        wait_until(
            lambda: shown in self.server.get("/model").body.decode(), f"{word} in /model", lambda: self.server.text
        )
        self.expect_served()

    def expect_served(self):
        client = self.server.client()
        reply = client.predict([ROW])
        client.close()
        assert reply.status == 200, reply
        assert reply.sha256 == self.good.sha256
        assert reply.json["outputs"] == [self.trainer.expected(self.good.sha256)]

    def assert_next_good_one_is_served(self):
        self.generation += 1
        self.good = self.publish_good(100 + self.generation)
        self.server.wait_live(self.generation)
        self.expect_served()


@pytest.fixture
def key(tmp_path):
    write_keys(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def bench(trainer, start_server, key):
    def make(**settings):
        return Bench(trainer, start_server, key, **settings)

    return make


def bytes_of(trainer, arrays):
    return trainer.write("bytes.safetensors", arrays).read_bytes()


def test_bad_content(bench, trainer):
    """Signed, with the right hash, and bad all the same."""
    served = bench(model="affine:Moody", warm_up_timeout_s=4)
    good = trainer.train(50).read_bytes()
    flipped = bytearray(good)
    flipped[12] ^= 0xFF
    nan = bytes_of(trainer, state((1.0, numpy.nan)))
    wider = bytes_of(trainer, state(weight=numpy.ones((3, 4), "float32")))
    golden = [{"inputs": [ROW], "outputs": [[0.5, 0.5]]}]
    matrix = [
        ("corrupt", bytes(flipped), {}, "damaged", "header"),
        ("truncated", good[:-7], {}, "damaged", "expected 40 bytes of weights"),
        ("grown", good + b"0", {}, "damaged", "found 41"),
        ("empty", b"", {}, "format", "an empty file"),
        ("no checkpoint", b"<html>404</html>", {}, "format", "expected safetensors"),
        (
            "wrong architecture",
            wider,
            {},
            "architecture",
            "[3, 4]",
        ),
        ("wrong dtype", bytes_of(trainer, state(dtype="float64")), {}, "architecture", "F64"),
        ("NaN", nan, {}, "finite", "NaN"),
        ("another format", good, {"format": "torch"}, "format", "expected torch"),
        ("wrong size", good, {"size": 5}, "size", "expected 5 bytes"),
        ("wrong hash", good, {"sha256": "0" * 64}, "hash", "expected 000"),
        ("golden mismatch", good, {"golden": golden}, "golden", "golden[0]"),
        ("another answer", good, {"interface": {"outputs": "text"}, "version": "v"}, "interface", "text"),
        ("warm-up that raises", bytes_of(trainer, state((17.0, 0.0))), {}, "warm-up", "17 is not a good bias"),
        ("out of memory", bytes_of(trainer, state((19.0, 0.0))), {}, "warm-up", "allocate memory"),
        ("warm-up that hangs", bytes_of(trainer, state((13.0, 0.0))), {}, "warm-up", "still running"),
    ]
    for number, (what, content, stated, code, word) in enumerate(matrix):
        if content == good:
            # Bytes of their own: a host remembers refused bytes, whatever their marker says.
            content = trainer.train(1000 + number).read_bytes()
        path = served.bad(content, **stated)
        served.assert_refused(path, code, word)
        assert what
    served.assert_next_good_one_is_served()


def test_signatures(bench, trainer, tmp_path):
    served = bench()
    unsigned = trainer.directory / "unsigned.safetensors"
    unsigned.write_bytes(trainer.train(60).read_bytes())
    mark(unsigned, json.dumps({"sha256": sha256_of(unsigned)}).encode())
    served.assert_refused(unsigned, "signature", "found none")
    altered = served.bad(trainer.train(61).read_bytes())
    marker = altered.with_name(altered.name + ".done")
    served.replace(marker, marker.read_bytes().replace(b'"bad1"', b'"best"'))
    served.assert_refused(altered, "signature", "expected one of this manifest")
    write_keys(tmp_path / "stranger")
    served.key, own = tmp_path / "stranger", served.key
    served.assert_refused(served.bad(trainer.train(62).read_bytes()), "signature", "the key: expected")
    served.key = own
    served.assert_next_good_one_is_served()


def test_a_pickle_that_runs_code(bench, trainer, tmp_path):
    served = bench()
    target = tmp_path / "exploded"
    code = "import sys, torch\nclass B:\n  def __reduce__(self): return (open, (sys.argv[1], 'w'))\n"
    code += "torch.save({'layer.weight': B()}, sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(target), str(tmp_path / "bomb")], check=True)
    path = served.bad((tmp_path / "bomb").read_bytes())
    wait_until(lambda: served.server.events("refused"), "a refusal")
    assert {line["code"] for line in served.server.events("refused")} <= {"damaged", "pickle"}
    assert path.exists()
    assert not target.exists()
    served.assert_next_good_one_is_served()


def test_odd_things_in_the_directory(bench, trainer):
    served = bench()
    directory = trainer.directory
    (directory / "dir.safetensors").write_bytes(b"x")
    (directory / "dir.safetensors.done").mkdir()
    served.assert_refused(directory / "dir.safetensors", "marker", "expected a regular file")
    (directory / "loop").symlink_to("loop")
    (directory / "loop.done").symlink_to("loop")
    served.assert_refused(directory / "loop", "marker", "")
    (directory / "folder").mkdir()
    mark(directory / "folder")
    served.assert_refused(directory / "folder", "marker", "expected a regular file")
    mark(directory / "absent")
    for number in range(10_000):
        (directory / f"other_{number}.bin").touch()
    served.assert_next_good_one_is_served()


def fill(path):
    """Write until the disk takes no more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"0" * 4096):
            continue
    os.close(descriptor)


def test_a_disk_that_is_full(bench, trainer, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a small file system of its own needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], stderr=-1, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        served = bench(store=disk / "store")
        filler = disk / "filler"
        fill(filler)
        path = served.bad(trainer.train(70).read_bytes())
        wait_until(lambda: served.server.events("refused") or served.server.events("fault"), "a word about the disk")
        served.expect_served()
        filler.unlink()
        served.bad(trainer.train(71).read_bytes(), version="after")
        wait_until(
            lambda: served.server.get("/model").json["version"] == "after",
            "the next good one",
            lambda: served.server.text,
        )
        assert path.exists()
        served.server.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_checkpoint_that_may_not_be_read(bench, trainer):
    powerless = []
    if os.geteuid() == 0:
        # Root reads everything; without this capability the rights of a file bind root as well.
        powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed, and root may read every file")
    served = bench(prefix=powerless)
    path = trainer.directory / "secret.safetensors"
    path.write_bytes(trainer.train(90).read_bytes())
    path.chmod(0)
    facts = {"sha256": sha256_of_secret(path), "size": path.stat().st_size, "version": "secret"}
    facts["signature"] = sign(facts, served.key)
    mark(path, json.dumps(facts).encode())
    served.assert_refused(path, "PermissionError", "Permission denied")
    served.assert_next_good_one_is_served()


def sha256_of_secret(path):
    path.chmod(0o600)
    digest = sha256_of(path)
    path.chmod(0)
    return digest


def test_random_bytes_never_reach_a_request(bench, trainer):
    """Whatever the damage, what is refused is refused for good and the next one is not held up."""
    served = bench()
    draw = random.Random(4)
    whole = trainer.train(80).read_bytes()
    for _ in range(12):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(len(content), 120))] = draw.randrange(256)
        if bytes(content) != whole:
            served.bad(bytes(content), version=f"r{draw.randrange(10**9)}")
        time.sleep(0.05)
    served.assert_next_good_one_is_served()
