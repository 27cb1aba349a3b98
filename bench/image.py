"""`envtool image` against the Dockerfile that envtool renders, built by buildah: one lock, one base, side by side.

The lock has the embedded channel's Python 3.9 and pip, numpy, scipy, pandas, Flask and gunicorn as wheels, and a conda
package of 1 MB, which is what changes. Everything of it is served from 127.0.0.1. The base is a minimal Debian by
debootstrap, from the archive that apt uses; the same with Debian's Python and pip stands for the Dockerfile's builder.
Needs root, debootstrap, buildah and skopeo:

    python bench/image.py --scratch DIRECTORY [--base ROOTFS]

Printed for each side: bytes of all layers compressed and of those upon the base, the first build with an empty cache,
the rebuild after the package changed, the layers that the rebuild changed and their bytes, which a registry that has
the first one would be sent, and whether building once more from nothing gives the same image. Seconds are those of the
clock, and of the processor with all children.
"""

from __future__ import annotations

import abc
import argparse
import contextlib
import functools
import http.server
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile  # noqa: E402
from tests.support.archives import Archive, File, lock_of, locked  # noqa: E402
from tests.support.wheels import locked_wheel  # noqa: E402

ENVTOOL = [sys.executable, "-m", "envtool"]
WHEELS = ["numpy==1.26.4", "scipy==1.13.1", "pandas==2.2.3", "flask==3.0.3", "gunicorn==23.0.0"]
PYTHON = "3.11"


class Taken(NamedTuple):
    """What a build took."""

    wall_s: float
    cpu_s: float


def run(*argv: object, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(
        [str(each) for each in argv], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, argv))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def packages(files: Path) -> list[LockedPackage]:
    """What does not change: conda packages and wheels."""
    run(*ENVTOOL, "channel", "build", "python", "pip", "--output", files)
    wanted = ["--only-binary=:all:", "--python-version", "3.9", "--implementation", "cp"]
    run(sys.executable, "-m", "pip", "download", "-q", *wanted, "-d", files / "wheels", *WHEELS)
    conda = [locked(path) for path in sorted(files.rglob("*.conda"))]
    return [*conda, *(locked_wheel(path) for path in sorted((files / "wheels").glob("*.whl")))]


def changing(files: Path, version: str) -> LockedPackage:
    """The package that changes: 1 MB that does not compress."""
    content = {
        "share/changing/data": File(version.encode().ljust(64) + os.urandom(1 << 20)),
        "bin/changing": File(b"#!/bin/sh\n", 0o755),
    }
    return locked(Archive("changing", content, version=version).write(files))


def write_lock(path: Path, listed: list[LockedPackage], files: Path, url: str) -> None:
    moved = [replace(each, url=each.url.replace(files.as_uri(), url)) for each in listed]
    path.write_text(format_lockfile(lock_of(*moved)))


def layers(layout: Path) -> dict[str, int]:
    """The layers of the only image of a layout, and their sizes."""
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    return {each["digest"]: each["size"] for each in manifest["layers"]}


def image_digest(layout: Path) -> str:
    return str(json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"])


class Side(abc.ABC):
    """One of the two, in a directory of its own, with the lock and `app/` in it."""

    def __init__(self, place: Path, base: Path) -> None:
        self.place, self.base, self.layout = place, base, place / "layout"
        (place / "app").mkdir(parents=True)
        (place / "app" / "serve.toml").write_text("")

    @abc.abstractmethod
    def build(self) -> None:
        """Build the image."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Let the next build begin from nothing."""

    def timed(self) -> Taken:
        """Build, and say what it took."""
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        self.build()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Taken(time.perf_counter() - began_s, cpu_s)


class Image(Side):
    """`envtool image`."""

    def build(self) -> None:
        options = ["-o", self.layout, "--base", self.base, "--app", "app"]
        run(*ENVTOOL, "image", *options, cwd=self.place, PYTHONPATH=str(ROOT), ENVTOOL_HOME=str(self.place / "home"))

    def forget(self) -> None:
        for each in ("home", "layout"):
            shutil.rmtree(self.place / each, ignore_errors=True)


class Dockerfile(Side):
    """The rendered Dockerfile by `buildah build --layers`."""

    def __init__(self, place: Path, base: Path, wheel: Path) -> None:
        super().__init__(place, base)
        self.storage = ["--root", place / "storage", "--runroot", place / "runroot"]
        self.wheel = wheel
        own = ["-s", f"install=/wheel/{wheel.name}[envtool]", "-s", "base_image=debian:12-slim"]
        run(
            *ENVTOOL,
            "deploy",
            "render",
            "docker",
            *own,
            "-s",
            f"python={PYTHON}",
            "-o",
            place / "Dockerfile",
            "--force",
        )
        self.name_bases()

    def name_bases(self) -> None:
        # Under the names that the Dockerfile has, so that no registry is asked.
        run("skopeo", "copy", "-q", f"oci:{self.base}", self.stored("docker.io/library/debian:12-slim"))
        builder = run("buildah", *self.storage, "from", "--pull-never", "docker.io/library/debian:12-slim").strip()
        inside = ["buildah", *self.storage, "run", "--isolation", "chroot", builder, "--"]
        run(*inside, "sh", "-c", "apt-get update -q && apt-get install -y -q --no-install-recommends python3-pip && "
            "rm /usr/lib/python3*/EXTERNALLY-MANAGED && ln -sf python3 /usr/bin/python")  # fmt: skip
        run("buildah", *self.storage, "commit", builder, f"docker.io/library/python:{PYTHON}-slim")

    def stored(self, name: str) -> str:
        return f"containers-storage:[overlay@{self.place / 'storage'}+{self.place / 'runroot'}]{name}"

    def build(self) -> None:
        certificates = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
        mounts = ["-v", f"{self.wheel.parent}:/wheel:ro", "-v", f"{certificates}:{certificates}:ro"]
        options = ["--layers", "--isolation", "chroot", "--pull-never", "--format", "docker", "--network", "host"]
        run("buildah", *self.storage, "build", *options, *mounts, "-t", "localhost/made", ".", cwd=self.place)
        # What pushing does: layers are compressed.
        shutil.rmtree(self.layout, ignore_errors=True)
        run("skopeo", "copy", "-q", self.stored("localhost/made:latest"), f"oci:{self.layout}")

    def forget(self) -> None:
        run("buildah", *self.storage, "rmi", "-a", "-f")
        self.name_bases()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="a root file system, instead of what debootstrap makes")
    options = parser.parse_args()
    scratch = options.scratch.resolve()
    scratch.mkdir(parents=True)
    base = make_base(scratch, options.base)
    files = scratch / "files"
    listed = packages(files)
    wheel_place = scratch / "wheel"
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheel_place, ROOT)
    (wheel,) = wheel_place.glob("*.whl")
    image, dockerfile = Image(scratch / "image", base), Dockerfile(scratch / "dockerfile", base, wheel)
    with served(files) as url:
        one, two = (changing(files, version) for version in ("1.0", "1.1"))
        for name, side in (("envtool image", image), ("Dockerfile, buildah", dockerfile)):
            write_lock(side.place / "conda-lock.yml", [*listed, one], files, url)
            first = side.timed()
            before, digest = layers(side.layout), image_digest(side.layout)
            write_lock(side.place / "conda-lock.yml", [*listed, two], files, url)
            second = side.timed()
            after = layers(side.layout)
            own = {each: size for each, size in after.items() if each not in layers(base)}
            sent = {each: size for each, size in after.items() if each not in before}
            sizes = f"{sum(after.values()) / 1e6:.1f} MB, {sum(own.values()) / 1e6:.1f} MB upon the base"
            print(f"{name}: {len(after)} layers, {sizes}")
            print(f"  first build {first.wall_s:.1f} s ({first.cpu_s:.1f} s of processor)")
            print(f"  rebuild {second.wall_s:.1f} s ({second.cpu_s:.1f} s of processor)")
            print(
                f"  layers that the rebuild changed: {len(sent)}, {sum(sent.values()) / 1e6:.2f} MB to push", flush=True
            )
            side.forget()
            write_lock(side.place / "conda-lock.yml", [*listed, one], files, url)
            side.build()
            print(
                f"  once more from nothing: {'the same' if image_digest(side.layout) == digest else 'another'} image",
                flush=True,
            )


def make_base(scratch: Path, rootfs: Path | None) -> Path:
    if rootfs is None:
        rootfs = scratch / "rootfs"
        # The archive that apt uses: the host is the machine's own affair.
        targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)").splitlines()
        uri, suite = next(each.split() for each in targets if "-" not in each.split()[1])
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", suite, rootfs, uri)
    storage = ["--root", scratch / "base-storage", "--runroot", scratch / "base-run"]
    container = run("buildah", *storage, "from", "scratch").strip()
    run("buildah", *storage, "add", container, rootfs, "/")
    run("buildah", *storage, "config", "--arch", "amd64", "--cmd", "bash", container)
    run("buildah", *storage, "commit", "-q", container, "localhost/base")
    # skopeo compresses, as it does when the other side's layers are pushed.
    stored = f"containers-storage:[overlay@{storage[1]}+{storage[3]}]localhost/base:latest"
    run("skopeo", "copy", "-q", stored, f"oci:{scratch / 'base'}:latest")
    return scratch / "base"


if __name__ == "__main__":
    main()
