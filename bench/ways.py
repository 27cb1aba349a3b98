"""Through how many modules and functions of ours a prediction, a look, a swap, a `lock` and a `create` go.

    python bench/ways.py                    counts for each way
    python bench/ways.py --list             and which modules
    python bench/ways.py --half envtool     of one half only

The real application, protocol class, reloader and model in one process, each way once more after it is warm; the real
command line with a lock of two packages for two platforms, and three archives in the cache. The fewer modules a way
enters, the fewer somebody has to read who follows it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPEC = """\
channels: [conda-forge]
platforms: [linux-64, linux-aarch64]
dependencies: [python=3.9, numpy]
"""


class Trace:
    """Which functions of ours were called, by module, and how often a call led into another module."""

    def __init__(self, half: str) -> None:
        self.ours = str(ROOT / half)
        self.functions: dict[str, set[str]] = {}
        self.changes = 0

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Trace this thread, and those that it starts."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _see(self, frame: Any, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(self.ours) or frame.f_code.co_name == "<module>":
            return
        self.functions.setdefault(name[len(self.ours) + 1 :], set()).add(frame.f_code.co_name)
        caller = frame.f_back.f_code.co_filename if frame.f_back else name
        self.changes += caller != name and caller.startswith(self.ours)

    def show(self, way: str, is_listed: bool) -> None:
        count = sum(map(len, self.functions.values()))
        print(f"{way:38} {len(self.functions):3} modules, {count:3} functions, {self.changes:3} changes of module")
        for name in sorted(self.functions) if is_listed else ():
            print(f"    {name}: {', '.join(sorted(self.functions[name]))}")


def ask_by_threads(server: Any) -> Trace:
    """A JSON prediction through Flask, answered by the live model of a server."""
    import request as binary

    from serve.gateway.flask_app import create_app
    from serve.http.drain import EXTENSION

    app = create_app(server.settings)
    for name, model in app.extensions[EXTENSION].models.items():
        model.stable.slot.swap(server.models[name].stable.slot.live)
    client, trace = app.test_client(), Trace("serve")
    for tracing in (contextlib.nullcontext(), trace.on()):
        with tracing:
            found = client.post("/predict", json={"inputs": [[0.0] * binary._COLUMNS]})
        assert found.status_code == 200, found.text
    return trace


async def ask_by_loop(server: Any) -> Trace:
    """A binary prediction through the protocol class."""
    import request as binary

    trace, connection = Trace("serve"), binary.connect(server, 1)[0]
    for tracing in (contextlib.nullcontext(), trace.on()):
        connection.transport.last = b""
        with tracing:
            connection.data_received(binary.request_bytes(binary._COLUMNS))
            while not connection.transport.last:
                await asyncio.sleep(0.001)
    return trace


def look(directory: Path, server: Any, is_new: bool) -> Trace:
    """A look of the reloader, at nothing new or at a checkpoint that it then swaps in."""
    instance, trace = next(server.instances), Trace("serve")
    if is_new:
        path = directory / "tiny.safetensors"
        content = path.read_bytes()
        content = content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]  # the lowest bit of the last weight
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        (directory / "tiny.safetensors.done").write_text(json.dumps({"version": "second", "sha256": sha256}))
    else:
        instance.reloader._look_safely(instance._make_loader())  # begins to watch, as a look of every start does
    loader, before = instance._make_loader(), instance.slot.live
    with trace.on():
        instance.reloader._look_safely(loader)
    assert (instance.slot.live is not before) == is_new, instance.reloader.status
    return trace


def serve_ways(directory: Path, is_listed: bool) -> None:
    """Two predictions, a look and a swap."""
    import request as binary

    server = binary.start(directory)
    for instance in server.instances:  # its thread cannot be traced
        instance.reloader._is_stopping.set()
        instance.reloader.look_now()
        instance._thread.join()
    ask_by_threads(server).show("prediction, threads", is_listed)
    asyncio.run(ask_by_loop(server)).show("prediction, event loop", is_listed)
    look(directory, server, is_new=False).show("look with nothing new", is_listed)
    look(directory, server, is_new=True).show("swap, one worker", is_listed)
    server.stop()


def run_envtool(*arguments: object) -> Trace:
    """A command of envtool in this process."""
    from envtool.cli import cli

    trace = Trace("envtool")
    with trace.on(), contextlib.redirect_stderr(io.StringIO()):
        cli.main([str(argument) for argument in arguments], standalone_mode=False)
    return trace


def envtool_ways(directory: Path, is_listed: bool) -> None:
    """A lock, a create, one that has nothing to do, and a verify; what is printed is their second run in a process."""
    sys.path.insert(0, str(ROOT))
    from envtool.lockfile.conda_lock_v1 import format_lockfile
    from tests.support.archives import Archive, File, lock_of, locked
    from tests.support.repodata_server import serving, variable

    with serving(ROOT / "tests/data/repodata") as base:
        os.environ["ENVTOOL_MIRRORS"] = variable(base, ["conda-forge"])
        for place in (directory / "first", directory / "again"):
            place.mkdir()
            os.chdir(place)
            os.environ["ENVTOOL_HOME"], os.environ["ENVTOOL_CACHE_DIR"] = str(place / "home"), str(place / "cache")
            (place / "environment.yml").write_text(SPEC)
            traces = {"lock, two platforms": run_envtool("lock")}
            made = [Archive(name, {f"share/{name}": File(b"content")}).write(place) for name in ("one", "two", "three")]
            (place / "conda-lock.yml").write_text(format_lockfile(lock_of(*map(locked, made))))
            for way in ("create, three archives", "create, nothing to do"):
                traces[way] = run_envtool("create", "-p", place / "env")
            traces["verify"] = run_envtool("verify", "-p", place / "env")
    for way, trace in traces.items():
        trace.show(way, is_listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--half", choices=["serve", "envtool"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for half, ways in (("serve", serve_ways), ("envtool", envtool_ways)):
            if options.half in (None, half):
                (Path(place) / half).mkdir()
                ways(Path(place) / half, options.list)


if __name__ == "__main__":
    main()
