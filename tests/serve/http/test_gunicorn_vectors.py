"""Gunicorn's own test vectors, from its source distribution: none is answered that may not be, and all that may are."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from wire import Wire, statuses

pytestmark = [pytest.mark.needs_torch, pytest.mark.nightly]
CACHE = Path(__file__).resolve().parents[3] / ".cache" / "gunicorn-vectors"
# What they ask for is a setting of gunicorn's that nobody has set here, or a peer that closes in the middle.
SET_OTHERWISE = "cfg"


@pytest.fixture(scope="module")
def vectors():
    if not CACHE.exists():
        argv = ["-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", CACHE, "gunicorn==23.0.0"]
        if subprocess.run([sys.executable, *argv]).returncode:
            pytest.skip("gunicorn's source distribution could not be downloaded")
    found = {}
    with tarfile.open(next(CACHE.glob("*.tar.gz"))) as archive:
        texts = {
            name: archive.extractfile(name).read()
            for name in archive.getnames()
            if "/tests/requests/" in name and "." in name[-6:]
        }
    for name, data in texts.items():
        if name.endswith(".http"):
            for marks, byte in ((b"\n", b""), (b"\\r\\n", b"\r\n"), (b"\\0", b"\0"), (b"\\n", b"\n"), (b"\\t", b"\t")):
                data = data.replace(marks, byte)
            if b"host:" not in data.lower():
                data = re.sub(rb"((?:^|\r\n)[A-Z]+ /[^\r\n]* HTTP/1\.[01]\r\n)", rb"\1Host: x\r\n", data)
            kind = name.split("/")[-2]
            found[kind, name.split("/")[-1]] = data, texts[name[:-5] + ".py"].decode()
    return found


def answers_to(server, data):
    with Wire(server.port) as wire:
        try:
            wire.send(data)
            return statuses(wire.finish())
        except ConnectionError:
            return []


# A coding beside a length, which RFC 9112, 6.1, takes for an attempt to smuggle; raw bytes in a path; a method of no
# standard; a body that is cut off here.
REFUSED_HERE = {"009.http", "027.http", "031.http", "099.http"}


def ask(server, vectors, wanted):
    """What is answered to each vector of a kind."""
    return {
        name: answers_to(server, data)
        for (kind, name), (data, code) in vectors.items()
        if kind == wanted and SET_OTHERWISE not in code and (wanted == "invalid" or name not in REFUSED_HERE)
    }


def test_none_that_is_invalid_is_answered(server, vectors):
    found = ask(server, vectors, "invalid")
    assert len(found) > 30
    assert {name: answers for name, answers in found.items() if any(status < 400 for status in answers)} == {}


def test_all_that_are_valid_are_answered(server, vectors):
    found, refused = ask(server, vectors, "valid"), {400, 414, 417, 431, 500, 501}
    assert len(found) > 25
    assert {name: answers for name, answers in found.items() if not answers or refused & set(answers)} == {}
