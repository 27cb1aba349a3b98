"""OCI images of locks, judged by the programs that others read images with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from envtool.image.layout import Member, grouped
from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile
from tests.functional.prefix.conftest import Channel, User
from tests.support.archives import PLACEHOLDER, Archive, File, lock_of, locked
from tests.support.debian_tools import require
from tests.support.wheels import locked_wheel, write_wheel

Python = tuple[LockedPackage, ...]


def run(*argv: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(argument) for argument in argv], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def layers_of(layout: Path) -> dict[str, str]:
    index = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    manifest = json.loads(blob(layout, index["digest"]))
    return {layer["annotations"]["envserve.layer"]: layer["digest"] for layer in manifest["layers"]}


def blob(layout: Path, digest: str) -> bytes:
    content = (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    return content


def test_an_image_has_one_digest_everywhere_and_its_tree_is_its_lock(
    user: User, python: Python, hello: LockedPackage, channel: Channel
) -> None:
    require("skopeo", "umoci")
    lock = user.write_lock(*python, *channel.all, hello)
    digest = user.run("image", "-o", user.home / "image").stdout.strip()
    # Another cache, another umask, a path of another length, the archives instead of what is kept unpacked.
    umask = os.umask(0o077)
    try:
        elsewhere = {"ENVTOOL_HOME": str(user.home / "a-longer-home-of-somebody-else")}
        assert user.run("image", "-o", user.home / "b.tar", **elsewhere).stdout.strip() == digest
    finally:
        os.umask(umask)
    run("skopeo", "copy", f"oci-archive:{user.home}/b.tar:latest", f"oci:{user.home}/copy:latest")
    shown = json.loads(run("skopeo", "inspect", f"oci:{user.home}/copy:latest"))
    assert shown["Digest"] == digest
    assert shown["Labels"]["envserve.lock-sha256"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    run("umoci", "unpack", "--rootless", "--image", f"{user.home}/copy:latest", user.home / "unpacked")
    prefix = user.home / "unpacked/rootfs/opt/env"
    report = json.loads(user.run("verify", "-p", prefix, "--made-for", "/opt/env", "--json").stdout)
    assert report["findings"] == []
    assert report["env_digest"] == shown["Labels"]["envserve.env-digest"]
    user.run("create", "-p", user.home / "env")
    assert user.run("digest", "-p", user.home / "env").stdout.strip() == report["env_digest"]
    found = user.run("export", "cyclonedx", "--prefix", user.home / "env").stdout
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(found) is None
    listed = {component["name"]: component for component in json.loads(found)["components"]}
    assert listed["tool"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert set(listed) == {"python", "pip", "tool", "library", "old", "hello-world"}
    assert str(user.home) not in "".join(
        path.read_text() for path in (prefix / "conda-meta").rglob("*") if path.is_file()
    )
    # The bill of materials refers to the image.
    index = json.loads((user.home / "image/index.json").read_bytes())
    referrer = json.loads(blob(user.home / "image", index["manifests"][1]["digest"]))
    assert referrer["subject"]["digest"] == digest
    bom = json.loads(blob(user.home / "image", referrer["layers"][0]["digest"]))
    assert {each["name"] for each in bom["components"]} >= {"python", "tool", "hello-world"}


def test_a_changed_package_changes_its_layer_alone(
    user: User, python: Python, hello: LockedPackage, channel: Channel, tmp_path: Path
) -> None:
    require("skopeo", "umoci")
    path = write_wheel(tmp_path, "empty", "1.0", {"empty.py": ""}, {})
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr("empty.libs/", "")  # as pandas has one; from the cache it is placed without
    empty = locked_wheel(path)
    user.write_lock(*python, *channel.all, hello, empty)
    user.run("image", "-o", user.home / "image")
    before = layers_of(user.home / "image")
    assert list(before) == ["library", "old", "pip", "python", "tool", "@wheels", "@notes", "root"]
    newer = locked(Archive("library", {"lib/libx.so.1": File(b"other")}, version="1.1").write(tmp_path))
    user.write_lock(*python, channel.tool, newer, channel.old, hello, empty)
    user.run("image", "-o", user.home / "image")
    after = layers_of(user.home / "image")
    assert list(after) == list(before)
    assert {name for name in before if before[name] != after[name]} == {"library"}
    shown = json.loads(run("skopeo", "inspect", f"oci:{user.home}/image:latest"))
    assert shown["Layers"] == list(after.values())
    # The tree is whole: verify takes the notes of each layer together.
    run("umoci", "unpack", "--rootless", "--image", f"{user.home}/image:latest", user.home / "unpacked")
    prefix = user.home / "unpacked/rootfs/opt/env"
    report = json.loads(user.run("verify", "-p", prefix, "--made-for", "/opt/env", "--json").stdout)
    assert report["findings"] == []
    assert report["env_digest"] == shown["Labels"]["envserve.env-digest"]
    # Nothing is left of what no image names.
    assert before["library"][7:] not in {path.name for path in (user.home / "image/blobs/sha256").iterdir()}
    # A changed wheel changes the layer of the wheels; a package that goes takes its own, and the notes list it no more.
    other = locked_wheel(write_wheel(tmp_path, "hello_world", "1.1", {"hello_world/__init__.py": ""}, {}))
    user.write_lock(*python, channel.tool, newer, other, empty)
    user.run("image", "-o", user.home / "image")
    last = layers_of(user.home / "image")
    assert {name for name in after if after[name] != last.get(name)} == {"old", "@wheels", "@notes"}
    assert user.run("image", "-o", channel.path(channel.tool).parent, code=3).stderr.count("nothing in it was touched")


def test_platforms_of_a_lock_come_together_in_an_index(user: User, tmp_path: Path) -> None:
    require("skopeo")
    platforms = {"linux-64": "amd64", "linux-aarch64": "arm64"}
    packages = []
    for platform in platforms:
        text = f"#!{PLACEHOLDER}/bin/sh\necho {platform}\n".encode()
        archive = Archive("tool", {"bin/tool": File(text, 0o755, prefix="text")}, subdir=platform)
        packages.append(locked(archive.write(tmp_path), platform=platform))
    lock = replace(lock_of(*packages), platforms=tuple(platforms), content_hash=dict.fromkeys(platforms, "0" * 64))
    (user.home / "conda-lock.yml").write_text(format_lockfile(lock))
    digests = [user.run("image", "-o", user.home / "i", "--platform", each).stdout for each in (*platforms, "linux-64")]
    assert digests[1] == digests[2] != digests[0]
    for name in platforms.values():
        run("skopeo", "--override-arch", name, "copy", f"oci:{user.home}/i:latest", f"oci:{user.home}/{name}:latest")
        config = json.loads(run("skopeo", "inspect", "--config", f"oci:{user.home}/{name}:latest"))
        assert config["architecture"] == name


def libraries(program: Path) -> set[str]:
    return set(re.findall(r"(?:=> |\t)(/(?:usr/)?lib\S+) \(", run("ldd", program)))


def run_by_podman(place: Path, name: str, expected: str) -> None:
    """Run an image of a layout as it is, with no network."""
    require("podman", "runc")
    own = ["--storage-driver", "vfs", "--root", place / "podman", "--runroot", place / "r"]  # of 50 characters at most
    # runc, as crun refuses a machine with control groups of both versions; limits that need no right to raise them.
    own += ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc"]
    limits = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
    argv = ["podman", *own, "run", "--rm", "--network", "none", *limits, f"oci:{name}:latest"]
    done = subprocess.run([str(each) for each in argv], capture_output=True, text=True, cwd=place)
    if done.returncode in (125, 126) and "OCI" in done.stderr:  # of the machine, not of the image
        pytest.skip(f"podman cannot run containers here: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout == expected, done.stderr


@pytest.mark.parametrize("name", ["based", pytest.param("alone", marks=pytest.mark.nightly)])
def test_an_image_upon_a_base_or_with_a_sysroot_runs(
    user: User, python: Python, hello: LockedPackage, tmp_path: Path, name: str
) -> None:
    require("skopeo", "umoci", "buildah")
    user.write_lock(*python)
    user.run("create", "-p", user.home / "env")
    needed = libraries((user.home / "env/bin/python").resolve())
    base = tmp_path / "base"
    run("umoci", "init", "--layout", base)
    run("umoci", "new", "--image", f"{base}:latest")
    run("umoci", "unpack", "--rootless", "--image", f"{base}:latest", tmp_path / "bundle")
    files = {}
    for path in needed:
        place = f"lib64/{Path(path).name}"
        files[f"x86_64-conda-linux-gnu/sysroot/{place}"] = File(Path(path).read_bytes(), 0o755)
        (tmp_path / "bundle/rootfs/lib64").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "bundle/rootfs" / place)
    (tmp_path / "bundle/rootfs/lib").symlink_to("lib64")
    run("umoci", "repack", "--image", f"{base}:latest", tmp_path / "bundle")
    sysroot = locked(Archive("sysroot_linux-64", files).write(tmp_path))
    # Stands where gunicorn does, and shows what the image runs it with.
    show = (
        "import os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ['ENVSERVE_ENV_DIGEST'], open('serve.toml').read())"
    )
    server = locked_wheel(write_wheel(tmp_path, "gunicorn", "1.0", {"gunicorn.py": show}, {}))
    (tmp_path / "app").mkdir()
    (tmp_path / "app/serve.toml").write_text("model = 'm:M'")
    (tmp_path / "app/store").mkdir()
    (tmp_path / "app/store/kept").write_text("")
    more, options = {"based": ((), ("--base", base)), "alone": ((sysroot,), ())}[name]
    user.write_lock(*python, hello, server, *more)
    said = user.run("image", "-o", user.home / name, "--app", tmp_path / "app", *options).stderr
    assert "no C library" not in said
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{user.home}/{name}:latest"))["config"]
    digest = config["Labels"]["envserve.env-digest"]
    expected = f"['-c', 'python:serve.gunicorn_conf', 'serve.wsgi:app'] /srv/app {digest} model = 'm:M'\n"
    own = ["--storage-driver", "vfs", "--root", tmp_path / "storage", "--runroot", tmp_path / "run"]
    # By a relative name: buildah makes a reference of the whole path, in which a directory's name may be impossible.
    run("buildah", *own, "from", "--name", name, f"oci:{name}:latest", cwd=user.home)
    inside = ["buildah", *own, "run", "--isolation", "chroot", name, "--"]
    # This isolation may end before it has passed the output on; a program that failed would not be asked again.
    assert expected in (run(*inside, *config["Entrypoint"]) for _ in range(5))
    mode = "import os; print(os.stat('store').st_mode & 0o7777)"
    assert f"{0o1777}\n" in (run(*inside, "python", "-c", mode) for _ in range(5))
    assert any("/opt/env" in run(*inside, "hello") for _ in range(5))
    run_by_podman(user.home, name, expected)
    damaged = next(path for path in (base / "blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    damaged.write_bytes(damaged.read_bytes() + b"x")
    assert "missing or damaged" in user.run("image", "-o", user.home / "c", "--base", base, code=3).stderr


def test_more_packages_than_layers_share_them_by_name() -> None:
    def layers(*names: str) -> list[tuple[str, list[Member]]]:
        return grouped(iter([(name, [Member(name)]) for name in [*names, "@wheels", "@notes"]]), 12)

    def place(found: list[tuple[str, list[Member]]]) -> dict[str, str]:
        return {member.path: title for title, members in found for member in members}

    names = [f"package-{number}" for number in range(50)]
    many, more = place(layers(*names)), place(layers(*names, "another"))
    assert len(set(many.values())) <= 12
    assert {path: more[path] for path in many} == many
    assert [title for title, _ in layers("a", "b")] == ["a", "b", "@wheels", "@notes"]


def unpacked(layout: Path, target: Path) -> Path:
    """The environment of an image as a tree of this machine."""
    for digest in layers_of(layout).values():
        with tarfile.open(layout / "blobs/sha256" / digest[7:]) as tar:
            tar.extractall(target)
    return target / "opt/env"


def test_packages_with_the_name_of_a_layer_are_in_the_image(user: User, tmp_path: Path) -> None:
    archives = [Archive(name, {f"share/{name}": File()}) for name in ("notes", "wheels")]
    user.write_lock(*(locked(each.write(tmp_path)) for each in archives))
    user.run("image", "-o", user.home / "image")
    prefix = unpacked(user.home / "image", user.home / "tree")
    assert json.loads(user.run("verify", "-p", prefix, "--made-for", "/opt/env", "--json").stdout)["findings"] == []


def test_a_tree_states_no_digest_but_in_its_running_image(user: User, channel: Channel, tmp_path: Path) -> None:
    unknown = Archive("unknown", {"share/unknown": File()}, license=None)
    lock = user.write_lock(channel.library, locked(unknown.write(tmp_path)))
    made = json.loads(user.run("image", "-o", user.home / "image", "--json").stdout)
    prefix = unpacked(user.home / "image", user.home / "tree")
    show = ("run", "-p", prefix, "--", "sh", "-c", 'echo "[$ENVSERVE_ENV_DIGEST]"')
    foreign = {"ENVSERVE_ENV_DIGEST": "0" * 64, "CONDA_PREFIX": str(user.home / "another")}
    assert user.run(*show, **foreign).stdout == "[]\n"
    running = {"ENVSERVE_ENV_DIGEST": made["env_digest"], "CONDA_PREFIX": str(prefix)}
    assert user.run(*show, **running).stdout == f"[{made['env_digest']}]\n"
    told = json.loads(user.run("digest", "-p", prefix, "--made-for", "/opt/env", "--json", **foreign).stdout)
    assert told["as_made"] is None
    assert told["env_digest"] == made["env_digest"]
    policy = user.home / "policy.toml"
    policy.write_text(f'[create]\nenv-digests = ["{made["env_digest"]}"]\n[audit]\nallow-licenses = ["MIT"]')
    ask = ("policy", "-p", prefix, "--policy", policy, "--json")
    answer = json.loads(user.run(*ask, code=1, **foreign).stdout)
    assert answer["env_digest"] is None
    assert {each["rule"] for each in answer["breaches"]} == {"create.env-digests", "audit licences"}
    answer = json.loads(user.run(*ask, code=1, **running).stdout)
    assert {each["rule"] for each in answer["breaches"]} == {"audit licences"}
    # A part that is missing is named, not overlooked; one that nothing lists is not taken for ours.
    parts = prefix / "conda-meta/envserve.d"
    (parts / "of-a-base.json").write_text('{"packages": [{"name": "of-a-base"}], "generated": {}}')
    assert user.run("verify", "-p", prefix, "--made-for", "/opt/env").stdout == ""
    (parts / "library.json").rename(parts / "elsewhere.json")
    said = user.run("verify", "-p", prefix, "--made-for", "/opt/env", code=3).stderr
    assert f"the receipt {parts}/library.json is damaged" in said
    (parts / "elsewhere.json").rename(parts / "library.json")
    # Made into an environment of this place, it has a receipt as any other.
    user.run("create", "-p", prefix, "-f", lock)
    assert user.run("verify", "-p", prefix).stdout == ""
    assert user.run(*show, **foreign).stdout == f"[{made['env_digest']}]\n"
    assert not parts.exists()


def test_every_layer_is_a_plain_archive_with_fixed_owners_times_and_modes(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    layout = user.home / "image"
    user.run("image", "-o", layout)
    found: dict[str, Any] = {}
    for digest in layers_of(layout).values():
        assert blob(layout, digest)[4:8] == b"\0\0\0\0"  # the time of gzip
        with tarfile.open(layout / "blobs/sha256" / digest[7:]) as tar:
            found.update({each.name: each for each in tar})
    assert {(each.uid, each.gid, each.uname, int(each.mtime)) for each in found.values()} == {(0, 0, "", 315_619_200)}
    assert found["opt/env/bin/tool"].mode == 0o755
    assert found["opt/env/share/x"].mode == 0o644
    assert found["opt/env/lib/libx.so"].linkname == "libx.so.1"
