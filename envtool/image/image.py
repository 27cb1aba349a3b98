"""An image of a lock: the environment is made, its packages become layers, a configuration states how it is run."""

from __future__ import annotations

import os
import platform as machine
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from envtool.console import ProgressDisplay
from envtool.errors import ImageError, ProcessError
from envtool.export.sbom import BomRequest, environment_bom
from envtool.fetch.archive_cache import Cache
from envtool.image.layout import CONFIG, MANIFEST, TARGET, Descriptor, Layer, Layout, Member, Tree, compressor, grouped
from envtool.install.create import create
from envtool.install.request import Request
from envtool.lockfile.conda_lock_v1 import VARIABLES_KEY, read_json_metadata
from envtool.prefix.prefix import Prefix
from envtool.scratch import scratch_directory
from envtool.verify import take_inventory

CREATED = "1980-01-02T00:00:00Z"
ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64", "linux-ppc64le": "ppc64le", "linux-s390x": "s390x"}
_MOST_LAYERS = 100  # overlayfs takes 128, and a base and what is built upon it want some
_APP = "srv/app"
_USER = "10001"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SERVER = ["-m", "gunicorn", "-c", "python:serve.gunicorn_conf", "serve.wsgi:app"]
_SBOM = "application/vnd.cyclonedx+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
LOCK_LABEL, DIGEST_LABEL = "envserve.lock-sha256", "envserve.env-digest"


class Wanted(NamedTuple):
    """What an image is made of."""

    request: Request
    lock_sha256: str
    name: str
    tag: str = "latest"
    # A layout, and the digest of the image in it that this one is put upon, None where it has only one.
    base: tuple[Path, str | None] | None = None
    app: Path | None = None  # the directory that has serve.toml and the model's module


@dataclass(frozen=True)
class Made:
    """An image that was made."""

    digest: str  # of its manifest, or of the index of all platforms
    env_digest: str
    platforms: tuple[str, ...]
    layers: int
    size_bytes: int
    lacks_libc: bool  # nothing in it brings a C library, so that it cannot run by itself
    lacks_zlib: bool  # no Python at hand has zlib itself, so that other machines compress to other bytes


def make(wanted: Wanted, output: Path, cache: Cache, display: ProgressDisplay) -> Made:
    """Make an image of one platform, beside those of other platforms of the same lock that the layout has. Raises
    ImageError if the output holds something else or the base does not fit, and what `create` raises."""
    if not output.name.endswith(".tar"):
        return _make(wanted, Layout(output), cache, display)
    with scratch_directory(output.absolute().parent) as scratch:
        layout = Layout(scratch / "layout")
        made = _make(wanted, layout, cache, display)
        layout.write_tar_to(output)
        return made


def _make(wanted: Wanted, layout: Layout, cache: Cache, display: ProgressDisplay) -> Made:
    request = wanted.request
    base = _base(wanted)
    layout.begin()
    cache.root.mkdir(parents=True, exist_ok=True)
    # In the cache, so that unpacked packages are cloned where the file system can.
    with scratch_directory(cache.root) as scratch:
        prefix = Prefix(scratch / "env")
        try:
            create(request, prefix, cache, display)
        except ProcessError as error:
            error.hint = f"make {request.platform} on such a machine, with the same output: it adds the platform"
            raise
        inventory = take_inventory(prefix, request.packages, cache, display)
        asked = BomRequest(request.lockfile, request.platform, request.categories, wanted.name)
        bom = environment_bom(asked, prefix.path).encode()
        # Links that let the C library of a `sysroot` package be found where programs look for it.
        loaders = (path for path in inventory.entries if "/sysroot/lib" in path and "/ld-linux" in path)
        libraries = None if base else next((f"{TARGET}/{os.path.split(path)[0]}" for path in loaders), None)
        links = [Member(name, mode=0o777, link=libraries) for name in ("lib", "lib64") if libraries]
        own = [*links]
        if base is None:
            people = f"root:x:0:0::/:/sbin/nologin\nserve:x:{_USER}:{_USER}::/{_APP}:/sbin/nologin\n"
            own += [Member("tmp", mode=0o1777), Member("etc/passwd", people.encode())]
        app = list(_app_members(wanted.app)) if wanted.app else []
        if app:  # in this layer, so that files of the application below them do not take the rights away
            app += [Member(f"{_APP}/{name}", mode=0o1777) for name in ("checkpoints", "store")]
        more = [(title, members) for title, members in (("root", own), ("app", app)) if members]
        layers = [*grouped(Tree(prefix, inventory).layers(), _MOST_LAYERS), *more]
        written = _write(layout, layers, compressor(prefix.python), display)
    bom_file = layout.put(bom, _SBOM)
    labels = {DIGEST_LABEL: inventory.env_digest, LOCK_LABEL: wanted.lock_sha256, "envserve.sbom": bom_file["digest"]}
    manifest = _manifest(wanted, layout, base, written, labels)
    kept, referrers = _others(layout, wanted)
    images = sorted([*kept, manifest], key=lambda each: str(each["platform"]["architecture"]))
    subject = {key: manifest[key] for key in ("mediaType", "digest", "size")}
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": _SBOM, "subject": subject, "layers": [bom_file]}
    value["config"] = layout.put(b"{}", _EMPTY)
    referrers.append(layout.put_json(value, MANIFEST, artifactType=_SBOM))
    digest = layout.finish(wanted.tag, images, referrers)
    size_bytes = sum(layer.descriptor["size"] for layer in written) + sum(each["size"] for each in _layers_of(base))
    names = tuple(image["platform"]["architecture"] for image in images)
    is_other = any(layer.is_other for layer in written)
    return Made(digest, inventory.env_digest, names, len(written), size_bytes, not base and not links, is_other)


def _write(
    layout: Layout, layers: Sequence[tuple[str, list[Member]]], python: Path | None, display: ProgressDisplay
) -> list[Layer]:
    with display.task(f"write {len(layers)} layers", len(layers)) as task:

        def write(layer: tuple[str, list[Member]]) -> Layer:
            written = layout.layer(*layer, python)
            task.advance()
            return written

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(pool.map(write, layers))


def _app_members(app: Path) -> Iterator[Member]:
    for directory, below, names in os.walk(app):
        below[:] = sorted(each for each in below if each not in (".git", "__pycache__"))
        for name in names:
            path = Path(directory) / name
            place = f"{_APP}/{path.relative_to(app)}"
            if path.is_symlink():
                yield Member(place, mode=0o777, link=os.fspath(path.readlink()))
            elif path.is_file():
                yield Member(place, path, 0o755 if os.access(path, os.X_OK) else 0o644)


def _base(wanted: Wanted) -> tuple[Layout, Any, Any] | None:
    if wanted.base is None:
        return None
    path, digest = wanted.base
    if not (path / "oci-layout").is_file():
        raise ImageError(f"{path} is not an OCI layout", "skopeo copy docker://debian:12-slim oci:base:latest")
    layout, architecture = Layout(path), ARCHITECTURES.get(wanted.request.platform, machine.machine())
    found = []
    for descriptor, manifest in layout.manifests():
        config = layout.read(manifest["config"])
        if digest in (None, descriptor["digest"]) and config.get("architecture") == architecture:
            found.append((layout, manifest, config))
    if len(found) != 1:
        what = f"{digest or 'one image'} for {architecture}"
        raise ImageError(f"{path}: expected {what}, found {len(found)} images", "name one: --base PATH@sha256:…")
    return found[0]


def _layers_of(base: tuple[Layout, Any, Any] | None) -> list[Descriptor]:
    return list(base[1]["layers"]) if base else []


def _manifest(
    wanted: Wanted, layout: Layout, base: tuple[Layout, Any, Any] | None, layers: Sequence[Layer],
    labels: Mapping[str, str],
) -> Descriptor:  # fmt: skip
    for each in _layers_of(base):
        layout.take(base[0], each)  # type: ignore[index]
    old = base[2] if base else {}
    platform = {"architecture": ARCHITECTURES.get(wanted.request.platform, machine.machine()), "os": "linux"}
    diff_ids = [*old.get("rootfs", {}).get("diff_ids", ()), *(layer.diff_id for layer in layers)]
    by = f"envtool {version('envserve')} image: "
    history = [*old.get("history", ()), *({"created": CREATED, "created_by": by + layer.title} for layer in layers)]
    config = layout.put_json(
        {**platform, "created": CREATED, "config": _config(wanted, old.get("config") or {}, labels),
         "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history}, CONFIG,
    )  # fmt: skip
    named = [*_layers_of(base), *(layer.descriptor for layer in layers)]
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": named}
    return layout.put_json({**value, "annotations": dict(labels)}, MANIFEST, platform=platform)


def _config(wanted: Wanted, base: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    variables = dict(each.partition("=")[::2] for each in base.get("Env") or ())
    variables["PATH"] = f"{TARGET}/bin:{variables.get('PATH', _PATH)}"
    variables.update(read_json_metadata(wanted.request.lockfile, VARIABLES_KEY) or {})
    variables.update({"CONDA_PREFIX": str(TARGET), "ENVSERVE_ENV_DIGEST": labels[DIGEST_LABEL]})
    config: dict[str, Any] = {**base, "Labels": {**(base.get("Labels") or {}), **labels}}
    if wanted.app:
        # getpass and torch ask for the name of a user that the base has no line for.
        variables.update(SERVE_BIND="0.0.0.0:8000", USER="serve", HOME=f"/{_APP}")
        variables.update(SERVE_CHECKPOINTS=f"/{_APP}/checkpoints", SERVE_STORE=f"/{_APP}/store")
        config.update(User=_USER, WorkingDir=f"/{_APP}", ExposedPorts={"8000/tcp": {}}, Cmd=[])
        config["Entrypoint"] = [f"{TARGET}/bin/python", *_SERVER]
    return {**config, "Env": [f"{name}={value}" for name, value in sorted(variables.items())]}


def _others(layout: Layout, wanted: Wanted) -> tuple[list[Descriptor], list[Descriptor]]:
    """The images of other platforms of this lock that the layout has, and what refers to them."""
    own = ARCHITECTURES.get(wanted.request.platform)
    kept = [
        {"platform": {"architecture": config["architecture"], "os": "linux"},
         **{key: value for key, value in each.items() if key != "annotations"}}
        for each, manifest in layout.manifests()
        for config in [layout.read(manifest["config"])]
        if config["architecture"] != own and manifest.get("annotations", {}).get(LOCK_LABEL) == wanted.lock_sha256
    ]  # fmt: skip
    digests = {each["digest"] for each in kept}
    return kept, [referrer for referrer in layout.referrers() if layout.read(referrer)["subject"]["digest"] in digests]
