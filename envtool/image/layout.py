"""An OCI image layout in a directory, and the files of a prefix as they are in it: each conda package has a layer, with
its byte-code and all that is noted of it, the wheels have one together, and what no package changes comes last. Empty
directories are left out, as they are where a package comes from the cache. Layers are the same bytes on every machine:
times are fixed, owners 0, gzip has no time, modes do not depend on the umask. Source: OCI image-spec 1.1. Out of scope:
registries; skopeo pushes a layout."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

from envtool import subprocesses
from envtool.artifacts.relocation import replace_text, restore, substitute
from envtool.atomic_files import write_atomically, writing
from envtool.errors import ImageError, ProcessError
from envtool.fetch.archive_cache import sha256_of
from envtool.image import gzip_worker
from envtool.package_cache.unpacked import describe_path, fill_record
from envtool.prefix.bytecode import compile_all, source_of
from envtool.prefix.prefix import ENV_DIGEST_VARIABLE, RECEIPT_FORMAT, Prefix
from envtool.scratch import scratch_directory
from envtool.verify import Inventory

# The environment's path in an image, as in the Dockerfile of `envtool deploy render docker`.
TARGET = Path("/opt/env")
# No package can have such a name.
WHEELS, NOTES = "@wheels", "@notes"
# Without the packages and the specs, which conda would need to change the environment; the file `frozen` forbids it.
_HISTORY = b"==> 1980-01-02 00:00:00 <==\n# cmd: envtool image\n"


class Member(NamedTuple):
    """One entry of a layer."""

    path: str  # in the image, without the slash before it
    # What it holds, or the file that has it, or what reads it; None for a directory or a link.
    content: bytes | Path | Callable[[], bytes] | None = None
    mode: int = 0o644
    link: str | None = None


class Tree:
    """A prefix that was just made, seen at the path that it has in an image."""

    def __init__(self, prefix: Prefix, inventory: Inventory) -> None:
        self._prefix, self._inventory = prefix, inventory
        self._root, self._old, self._new = str(prefix.path), os.fsencode(prefix.path), os.fsencode(TARGET)
        self._records = {
            path.name: json.loads(path.read_bytes()) for path in sorted(prefix.meta.glob("*.json")) if path.is_file()
        }

    def layers(self) -> Iterator[tuple[str, list[Member]]]:
        """The layers in their order, each by its name, which a conda package's has from the package."""
        names = sorted({record["name"] for record in self._records.values()})
        found: dict[str, list[Member]] = {name: [] for name in [*names, WHEELS, NOTES]}
        for path, entry in self._inventory.entries.items():
            found[self._owner(path)].append(self._link(path) if entry.kind == "link" else self._file(path))
        for name, record in self._records.items():
            found[record["name"]].append(_noted(name, self._record(record)))
        receipt = self._prefix.receipt()
        parts: dict[str, Any] = {name: {"packages": [], "generated": {}} for name in [*names, WHEELS]}
        for package in receipt.packages:
            parts[package.name if package.manager == "conda" else WHEELS]["packages"].append(asdict(package))
        for path, sha256 in receipt.generated.items():
            parts[self._owner(path)]["generated"][path] = sha256
        parts = {name: part for name, part in parts.items() if part["packages"] or part["generated"]}
        for name, part in parts.items():
            found[name].append(_noted(f"envserve.d/{name}.json", _as_json(part)))
        # All that follows stays as it is when a package changes; one that comes or goes changes the list of parts.
        variables = json.loads((self._prefix.meta / "state").read_bytes())["env_vars"]
        del variables[ENV_DIGEST_VARIABLE]
        head = {**asdict(receipt), "format": RECEIPT_FORMAT, "packages": [], "generated": {}}
        head["parts"] = [f"{name}.json" for name in parts]
        del head["env_digest"]
        notes = {"envserve": _as_json(head), "history": _HISTORY, "state": _as_json({"env_vars": variables})}
        notes["frozen"] = (self._prefix.meta / "frozen").read_bytes()
        found[NOTES] = [_noted(name, content) for name, content in notes.items()]
        return ((name, members) for name, members in found.items() if members)

    @functools.cached_property
    def _owners(self) -> Mapping[str, str]:
        return {path: record["name"] for record in self._records.values() for path in record["files"]}

    def _owner(self, path: str) -> str:
        return self._owners.get(path) or self._owners.get(source_of(path) or "") or WHEELS

    def _link(self, path: str) -> Member:
        target = os.readlink(f"{self._root}/{path}")  # noqa: PTH115 - a Path for each of 30,000 files is slow
        return Member(_placed(path), mode=0o777, link=target.replace(self._root, str(TARGET)))

    def _file(self, path: str) -> Member:
        mode = 0o755 if self._inventory.entries[path].is_executable else 0o644
        is_other = self._inventory.entries[path].names_prefix or path in self._recompiled or self._is_record(path)
        return Member(
            _placed(path), functools.partial(self._read, path) if is_other else self._prefix.path / path, mode
        )

    def _is_record(self, path: str) -> bool:
        declared = self._inventory.declared.get(path)
        return path.endswith(".dist-info/RECORD") and declared is not None and declared.package[0] == "pip"

    def _read(self, path: str) -> bytes:
        if path in self._recompiled:
            return self._recompiled[path]
        content = Path(self._root, path).read_bytes()
        if self._is_record(path):
            here = Path(path).parent.parent
            content = fill_record(content, lambda name: self._read(os.path.normpath(f"{here}/{name}")))
        if not self._inventory.entries[path].names_prefix:
            return content
        declared = self._inventory.declared.get(path)
        placeholder = declared.placeholder if declared else None
        if placeholder is not None and placeholder.is_binary:
            return substitute(restore(content, self._old, placeholder), self._new, placeholder)
        return content.replace(self._old, self._new)

    @functools.cached_property
    def _recompiled(self) -> Mapping[str, bytes]:
        # Byte-code holds the hash and the strings of its module.
        entries = self._inventory.entries
        modules = {path: str(source_of(path)) for path in entries if source_of(path)}
        stale = [path for path, module in modules.items() if module in entries and entries[module].names_prefix]
        with scratch_directory() as scratch:
            for path in stale:
                module = scratch / modules[path]
                module.parent.mkdir(parents=True, exist_ok=True)
                module.write_bytes(Path(self._root, modules[path]).read_bytes().replace(self._old, self._new))
            if stale:
                compile_all(scratch, self._prefix.python)
            return {path: (scratch / path).read_bytes() for path in stale}

    def _record(self, record: Mapping[str, Any]) -> bytes:
        content = replace_text(record, self._root, str(TARGET))
        for path in content["paths_data"]["paths"]:
            describe_path(path, self._read)
            if path.get("prefix_placeholder") and "sha256_in_prefix" in path:  # its size depends on where it was made
                path["size_in_bytes"] = len(self._read(path["_path"]))
        return _as_json(content)


def _placed(path: str) -> str:
    return f"{TARGET}/{path}"[1:]


def _as_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _noted(name: str, content: bytes) -> Member:
    return Member(_placed(f"conda-meta/{name}"), content)


def grouped(layers: Iterator[tuple[str, list[Member]]], most: int) -> list[tuple[str, list[Member]]]:
    """The layers, some of them together, by the hash of their name, where there are more than an image can have."""
    found = list(layers)
    if len(found) <= most:
        return found
    groups: dict[str, list[Member]] = {}
    for name, members in found:
        bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % (most - 2)
        groups.setdefault(name if name in (WHEELS, NOTES) else f"packages {bucket:03}", []).extend(members)
    return sorted(groups.items(), key=lambda each: (each[0] == NOTES, each[0] == WHEELS, each[0]))


MTIME_S = 315_619_200  # 1980-01-02: zip archives of what is in an image can state it in every time zone
_MEDIA = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG = f"{_MEDIA}manifest.v1+json", f"{_MEDIA}index.v1+json", f"{_MEDIA}config.v1+json"
_LAYER = f"{_MEDIA}layer.v1.tar+gzip"
_TAG = "org.opencontainers.image.ref.name"
_MARK = "oci-layout"
OTHER_DEFLATE = "envserve.other-deflate"  # marks layers that something other than zlib compressed
Descriptor = dict[str, Any]


class Layer(NamedTuple):
    """A layer as a manifest and a configuration name it."""

    descriptor: Descriptor
    diff_id: str
    title: str

    @property
    def is_other(self) -> bool:
        """Whether something other than zlib compressed it."""
        return OTHER_DEFLATE in self.descriptor["annotations"]


class Layout:
    """The directory of a layout, which `begin` makes."""

    def __init__(self, root: Path) -> None:
        self.root, self._blobs = root, root / "blobs" / "sha256"

    def begin(self) -> None:
        """Make the directory. Raises ImageError if it holds something other than a layout."""
        is_empty = not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir()))
        if not is_empty and not (self.root / _MARK).is_file():
            raise ImageError(f"{self.root} holds something other than an OCI layout; nothing in it was touched")
        self._blobs.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / _MARK, '{"imageLayoutVersion":"1.0.0"}')

    def path(self, descriptor: Mapping[str, Any]) -> Path:
        """The file of a blob. Raises ImageError if it is missing or not what its digest states."""
        path = self._blobs / str(descriptor["digest"]).rpartition(":")[2]
        if not path.is_file() or f"sha256:{sha256_of(path)}" != descriptor["digest"]:
            raise ImageError(f"{self.root}: {descriptor['digest']} is missing or damaged", "make the layout again")
        return path

    def read(self, descriptor: Mapping[str, Any]) -> Any:
        """A blob of JSON. Raises ImageError if it is missing or damaged."""
        return json.loads(self.path(descriptor).read_bytes())

    def _top(self) -> list[Descriptor]:
        index = self.root / "index.json"
        return list(json.loads(index.read_bytes())["manifests"]) if index.is_file() else []

    def referrers(self) -> list[Descriptor]:
        """The artifacts of the layout that are about an image of it."""
        return [each for each in self._top() if "artifactType" in each]

    def manifests(self) -> list[tuple[Descriptor, Any]]:
        """Every image of the layout with its manifest. Raises ImageError if the layout is damaged."""
        try:
            todo, found = self._top(), []
            while todo:
                each = todo.pop(0)
                if each["mediaType"] == INDEX:
                    todo += self.read(each)["manifests"]
                elif each["mediaType"] == MANIFEST and "artifactType" not in each:
                    found.append((each, self.read(each)))
            return found
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"{self.root} is not an OCI layout: {error!r}", "make the layout again") from error

    def put_json(self, value: Mapping[str, Any], media_type: str, **more: Any) -> Descriptor:
        """Keep a blob of JSON."""
        return self.put(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media_type, **more)

    def put(self, content: bytes, media_type: str, **more: Any) -> Descriptor:
        """Keep a blob; `more` is what its descriptor states besides."""
        digest = hashlib.sha256(content).hexdigest()
        write_atomically(self._blobs / digest, content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def take(self, other: Layout, descriptor: Mapping[str, Any]) -> None:
        """Copy a blob of another layout. Raises ImageError if it is missing or damaged."""
        source = other.path(descriptor)
        with writing(self._blobs / source.name) as file, source.open("rb") as reader:
            shutil.copyfileobj(reader, file)

    @functools.cached_property
    def _known(self) -> Mapping[str, Descriptor]:
        """The layers that the layout has, by the digests of what they unpack to."""
        return {
            diff_id: layer
            for _, manifest in self.manifests()
            for layer, diff_id in zip(manifest["layers"], self.read(manifest["config"])["rootfs"]["diff_ids"])
            if layer["mediaType"] == _LAYER
        }

    def layer(self, title: str, members: Sequence[Member], python: Path | None) -> Layer:
        """Keep a layer, compressed by this Python or by another; one that the layout has is not compressed again."""
        digest = hashlib.sha256()
        write_tar(SimpleNamespace(write=digest.update), members)
        diff_id = f"sha256:{digest.hexdigest()}"
        is_zlib = python is not None or _is_zlib()
        notes, other = {"envserve.layer": title}, {OTHER_DEFLATE: "true"}
        known = self._known.get(diff_id)
        is_other = known is not None and OTHER_DEFLATE in (known.get("annotations") or {})
        if known is not None and not (is_other and is_zlib):
            with contextlib.suppress(ImageError):
                self.path(known)
                return Layer({**known, "annotations": {**notes, **(other if is_other else {})}}, diff_id, title)
        notes |= {} if is_zlib else other
        with scratch_directory(self.root) as scratch:
            tar, packed = scratch / "tar", scratch / "gzip"
            if python is None:
                with packed.open("wb") as file, gzip_worker.packing(file) as stream:
                    write_tar(stream, members)
            else:
                with tar.open("wb") as file:
                    write_tar(file, members)
                subprocesses.run([*_of(python), str(tar), str(packed)])
            sha256, size_bytes = sha256_of(packed), packed.stat().st_size
            packed.replace(self._blobs / sha256)
        descriptor = {"mediaType": _LAYER, "digest": f"sha256:{sha256}", "size": size_bytes, "annotations": notes}
        return Layer(descriptor, diff_id, title)

    def finish(self, tag: str, images: Sequence[Descriptor], referrers: Sequence[Descriptor]) -> str:
        """Name the image, and remove the blobs that nothing names any more; returns its digest."""
        stated = {"schemaVersion": 2, "mediaType": INDEX}
        whole = images[0] if len(images) == 1 else self.put_json({**stated, "manifests": images}, INDEX)
        top = [{**whole, "annotations": {_TAG: tag}}, *referrers]
        write_atomically(self.root / "index.json", json.dumps({**stated, "manifests": top}, sort_keys=True))
        kept = {path.name for descriptor in top for path in self._named_by(descriptor)}
        for blob in self._blobs.iterdir():
            if blob.name not in kept:
                blob.unlink()
        return str(whole["digest"])

    def _named_by(self, descriptor: Mapping[str, Any]) -> Iterator[Path]:
        yield self.path(descriptor)
        if descriptor["mediaType"] in (INDEX, MANIFEST):
            value = self.read(descriptor)
            config = [value["config"]] if "config" in value else []
            for each in (*value.get("manifests", ()), *value.get("layers", ()), *config):
                yield from self._named_by(each)

    def write_tar_to(self, target: Path) -> None:
        """The layout as one file, as `oci-archive:` of skopeo and podman reads it."""
        names = sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())
        with writing(target) as file:
            write_tar(file, [Member(name, self.root / name) for name in names])


_is_zlib = functools.cache(gzip_worker.is_zlib)  # not there, as an older Python may run that file


def _of(python: Path) -> list[str]:
    return [str(python), "-I", "-S", gzip_worker.__file__]


def compressor(own: Path) -> Path | None:
    """The Python that compresses layers: None for this one unless only an environment's own has zlib."""
    if not _is_zlib():
        with contextlib.suppress(ProcessError):
            subprocesses.run(_of(own))
            return own
    return None


def write_tar(file: Any, members: Sequence[Member]) -> None:
    """Write entries by their paths, with the directories above them."""
    above = {str(parent) for each in members for parent in PurePosixPath(each.path).parents} - {"."}
    by_path = {path: Member(path, mode=0o755) for path in above}
    by_path.update((each.path, each) for each in members)
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for _, member in sorted(by_path.items()):
            info = tarfile.TarInfo(member.path)
            info.mtime, info.mode = MTIME_S, member.mode
            if member.link is not None or member.content is None:
                info.type = tarfile.DIRTYPE if member.link is None else tarfile.SYMTYPE
                info.linkname = member.link or ""
                tar.addfile(info)
            elif isinstance(member.content, Path):
                info.size = member.content.stat().st_size
                with member.content.open("rb") as source:
                    tar.addfile(info, source)
            else:
                content = member.content() if callable(member.content) else member.content
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
