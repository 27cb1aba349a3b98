"""Changing what a channel holds, one process at a time: files appear whole, the index after the archives that it names,
and an archive goes after the index that does not name it any more."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from envtool import file_lock
from envtool.artifacts import conda_package, file_manifest
from envtool.artifacts.conda_archive import STATED, parse_info, read_info, read_info_json, read_payload
from envtool.atomic_files import writing
from envtool.channel import index
from envtool.console import ProgressDisplay, Task, warn
from envtool.errors import ArchiveError, ChannelError, Issue, MissingFileError
from envtool.fetch.archive_cache import sha256_of
from envtool.signing import trust
from envtool.wheels import checkout
from envtool.wheels.to_conda import ConversionOptions, convert


def check_archive(path: Path) -> list[Issue]:
    """Compare an archive with its own paths.json, and its name with its own index.json."""
    try:
        info, payload = read_info(path, STATED), read_payload(path)
        record = parse_info(path, info, "index.json")
        info.setdefault("paths.json", file_manifest.old_listing(payload, info))
        rows = file_manifest.stated_paths(path, parse_info(path, info, "paths.json"))
    except ArchiveError as error:
        return [Issue(path.name, str(error))]
    found = []
    stated_name = f"{record.get('name')}-{record.get('version')}-{record.get('build')}"
    if path.name not in (f"{stated_name}.conda", f"{stated_name}.tar.bz2"):
        found.append(f"is {stated_name} by its own index.json")
    members = {each.path: each for each in payload}
    found += [f"{name} is not in its paths.json" for name in sorted(members.keys() - rows.keys())]
    found += [f"{name} is in its paths.json only" for name in sorted(rows.keys() - members.keys())
              if rows[name].get("path_type") != "directory"]  # fmt: skip
    for name in sorted(rows.keys() & members.keys()):
        expected = rows[name].get("sha256")
        if not members[name].is_link and expected not in (None, members[name].sha256):
            found.append(f"{name} has sha256 {members[name].sha256}, its paths.json has {expected}")
    return [Issue(path.name, message) for message in found]


def check(channel: Path, archives: Mapping[str, Path], task: Task) -> list[Issue]:
    """Check a whole channel."""
    issues = list(_index_issues(channel, archives))
    for name, path in archives.items():
        issues += [Issue(f"{name.partition('/')[0]}/{each.place}", each.message) for each in check_archive(path)]
        task.advance()
    return issues


def _index_issues(channel: Path, archives: Mapping[str, Path]) -> Iterator[Issue]:
    subdirs = {"noarch", *(name.partition("/")[0] for name in archives)}
    subdirs |= {path.parent.name for path in channel.glob("*/repodata.json")}
    for subdir in sorted(subdirs):
        records = index.read(channel, subdir)
        if records is None:
            yield Issue(f"{subdir}/repodata.json", "not found, or malformed")
            continue
        if not index.is_packed(channel, subdir):
            yield Issue(f"{subdir}/repodata.json.zst", "does not hold what repodata.json holds")
        own = {name.partition("/")[2]: path for name, path in archives.items() if name.startswith(f"{subdir}/")}
        yield from (Issue(f"{subdir}/{name}", "is not in the index") for name in sorted(own.keys() - records.keys()))
        yield from (Issue(f"{subdir}/{name}", "is in the index only") for name in sorted(records.keys() - own.keys()))
        for name in sorted(own.keys() & records.keys()):
            path, record = own[name], records[name]
            size_bytes, digest = path.stat().st_size, sha256_of(path)
            if record.get("size") != size_bytes:
                yield Issue(f"{subdir}/{name}", f"has {size_bytes} bytes, the index has {record.get('size')}")
            if record.get("sha256") != digest:
                yield Issue(f"{subdir}/{name}", f"has sha256 {digest}, the index has {record.get('sha256')}")
                continue
            stated = read_info_json(path, "index.json")
            for key in ("name", "version", "build", "build_number"):
                if record.get(key) != stated.get(key):
                    found = f"has {key} {stated.get(key)!r}, the index has {record.get(key)!r}"
                    yield Issue(f"{subdir}/{name}", found)


_LOCK = ".envtool/lock"
_SUFFIXES = (".conda", ".tar.bz2")


@dataclass(frozen=True)
class Changed:
    """What was changed in a channel."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    kept: int
    refused: tuple[str, ...] = ()  # why archives were not added

    def require_all(self) -> None:
        """Raise ArchiveError if an archive was refused."""
        if self.refused:
            raise ArchiveError("\n".join(self.refused), "the others were added" if self.added else None)


def archives(channel: Path) -> dict[str, Path]:
    """Every archive of a channel, by `subdir/file name`."""
    if not channel.is_dir():
        raise ChannelError(f"{channel} is not a directory", "envtool channel add DIR FILE makes a channel")
    found = (path for path in channel.glob("*/*") if path.name.endswith(_SUFFIXES) and path.parent.name[0] != ".")
    return {f"{each.parent.name}/{each.name}": each for each in sorted(found) if each.is_file()}


def add(channel: Path, files: Sequence[Path], display: ProgressDisplay, key_file: Path | None = None) -> Changed:
    """Copy archives into a channel and index it; one that is damaged, or contradicts itself or its name, is refused.
    Raises ArchiveError if all are, ChannelError if the channel has another archive of that name."""
    with display.task(f"check {len(files)} archives") as task:
        places: dict[str, Path] = {}
        refused = []
        for file in files:
            try:
                places[_place(file)] = file
            except ArchiveError as error:
                refused.append(error.message)
            task.advance()
    if not places:
        Changed((), (), 0, tuple(refused)).require_all()
    _require_new_or_same(channel, places)
    channel.mkdir(parents=True, exist_ok=True)
    with _changing(channel):
        _require_new_or_same(channel, places)
        new = [name for name in places if not (channel / name).exists()]
        for name in new:
            (channel / name).parent.mkdir(exist_ok=True)
            with writing(channel / name) as target, places[name].open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        changed = _indexed(channel, display, key_file, added=tuple(sorted(new)))
        return replace(changed, refused=tuple(refused))


def reindex(
    channel: Path, display: ProgressDisplay, key_file: Path | None = None, has_shards: bool | None = None
) -> Changed:
    """Index a channel as it is; without `has_shards` it has them if there are some already."""
    with _changing(channel):
        return _indexed(channel, display, key_file, has_shards=has_shards)


def remove(channel: Path, patterns: Sequence[str], display: ProgressDisplay, key_file: Path | None = None) -> Changed:
    """Take archives out of a channel by patterns of their file names, with `subdir/` before them or not."""
    with _changing(channel) as there:
        gone: set[str] = set()
        for pattern in patterns:
            found = fnmatch.filter(there, pattern if "/" in pattern else f"*/{pattern}")
            if not found:
                hint = "envtool channel check lists all"
                raise ChannelError(f"{channel} has no {pattern}; nothing was removed", hint)
            gone.update(found)
        return _indexed(channel, display, key_file, gone=tuple(sorted(gone)))


def collect(channel: Path, keep: int, display: ProgressDisplay, key_file: Path | None = None) -> Changed:
    """Take all but the newest builds of every package out of a channel."""
    with _changing(channel) as there:
        groups: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
        for name, path in there.items():
            record = read_info_json(path, "index.json")
            groups.setdefault((name.partition("/")[0], str(record["name"])), {})[name] = record
        gone = [name for group in groups.values() for name in index.newest_first(group)[keep:]]
        return _indexed(channel, display, key_file, gone=tuple(sorted(gone)))


def _place(file: Path) -> str:
    problems = check_archive(file)
    if problems:
        raise ArchiveError(f"{file} is damaged or contradicts itself:" + "".join(f"\n  {each}" for each in problems))
    reason = index.problem(file)
    if reason is not None:
        raise ArchiveError(f"{file} cannot be in an index: {reason}")
    record = read_info_json(file, "index.json")
    subdir = record.get("subdir") or "noarch"
    if not index.is_known(subdir):
        raise ArchiveError(f"{file} cannot be in an index: {subdir!r} is no platform that conda knows")
    return f"{subdir}/{file.name}"


def _require_new_or_same(channel: Path, places: dict[str, Path]) -> None:
    for name, file in places.items():
        there = channel / name
        if there.exists() and sha256_of(there) != sha256_of(file):
            hint = "caches know an archive by its name: raise the build number, or remove the old one first"
            raise ChannelError(f"{channel} has another {name}, with other content; nothing was added", hint)


def _indexed(
    channel: Path, display: ProgressDisplay, key_file: Path | None, *, added: tuple[str, ...] = (),
    gone: tuple[str, ...] = (), has_shards: bool | None = None,
) -> Changed:  # fmt: skip
    there = archives(channel)
    if key_file is None and (channel / trust.SIGNATURE).exists():
        warn(f"{channel} was signed and is not any more: sign it with envtool channel index {channel} --key PEM")
    kept = [name for name in there if name not in gone]
    with display.task(f"index {len(kept)} archives"):
        index.write(channel, kept, has_shards=has_shards, key_file=key_file)
    for name in gone:
        there[name].unlink()
    subdirs = {name.partition("/")[0] for name in kept}
    return Changed(added, gone, sum(len(index.read(channel, subdir) or ()) for subdir in subdirs))


@contextmanager
def _changing(channel: Path) -> Iterator[dict[str, Path]]:
    archives(channel)  # before a lock is put into something else
    (channel / _LOCK).parent.mkdir(exist_ok=True)
    with file_lock.hold(channel / _LOCK, channel):
        yield archives(channel)


# Beside sources in a checkout, and never what a wheel is made of.
_NOT_INPUTS = frozenset({"build", "dist", "node_modules", "venv", "env"})
_KEPT_HIDDEN = frozenset({".git"})  # some backends take the version from it


def make(
    wheels: Sequence[Path], checkouts: Sequence[Path], wishes: Sequence[ConversionOptions], channel: Path,
    display: ProgressDisplay, key_file: Path | None = None,
) -> Changed:  # fmt: skip
    """Make packages of wheels, one for each wish, and add them to a channel; the same source gives the same bytes.
    Raises MissingFileError, ArchiveError if a wheel cannot become a package, ProcessError if a build backend failed,
    ChannelError if the channel has another archive of the same name."""
    with TemporaryDirectory(prefix="envtool-packages-") as name:
        scratch = Path(name)
        if missing := [str(wheel) for wheel in wheels if not wheel.is_file()]:
            raise MissingFileError(f"{', '.join(missing)}: not found", "pip download --no-deps NAME brings a wheel")
        sources = [*wheels, *_built(checkouts, scratch, display)]
        packages = [convert(wheel, wish) for wheel in sources for wish in wishes]
        # One that is the same for several wishes is made once.
        made = {scratch / package.file_name: package for package in packages}
        for path, package in made.items():
            with display.task(f"pack {package.file_name}"):
                path.write_bytes(conda_package.pack(package))
        changed = add(channel, list(made), display, key_file)
        changed.require_all()
        return changed


def _built(checkouts: Sequence[Path], scratch: Path, display: ProgressDisplay) -> Iterator[Path]:
    for number, root in enumerate(checkouts):
        if not (root / "pyproject.toml").is_file():
            raise MissingFileError(f"{root} has no pyproject.toml", "name the directory of a project")
        inputs = sorted(
            path.name
            for path in root.iterdir()
            if path.name in _KEPT_HIDDEN or not (path.name in _NOT_INPUTS or path.name.startswith("."))
        )
        copy, target = scratch / f"checkout-{number}", scratch / f"wheel-{number}"
        target.mkdir()
        with display.task(f"build the wheel of {root}"):
            checkout.snapshot(root, inputs, copy)
            yield checkout.build(copy, target)
