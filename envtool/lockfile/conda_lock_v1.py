"""conda-lock.yml in version 1 (CEP 37), read in milliseconds with each issue's line, written as conda-lock does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from envtool.atomic_files import write_atomically
from envtool.errors import Issue, LockfileError
from envtool.fetch.credentials import variables_of, with_variables
from envtool.lockfile import model
from envtool.lockfile.model import LockedPackage, Lockfile, SourceBuild
from envtool.yaml_document import Value, YamlDocument, dump, read_text

__all__ = ["LockedPackage", "Lockfile", "format_lockfile", "parse_lockfile", "read_json_metadata", "read_lockfile"]
__all__ += ["LINK_SCRIPTS_KEY", "SIZES_KEY", "SPECS_KEY", "VARIABLES_KEY", "write_lockfile"]
_URL_OF_LINE = re.compile(r"@\s*(\w[\w+.-]*://[^\s;]+)")
INPUTS_KEY = "envtool_inputs"
LINK_SCRIPTS_KEY = "envtool_run_link_scripts"
SIZES_KEY = "envtool_sizes"
SPECS_KEY = "envtool_match_specs"
VARIABLES_KEY = "envtool_variables"
BUILDS_KEY = "envtool_builds"
_PACKAGE_KEYS = (
    "name", "version", "manager", "platform", "dependencies", "url", "hash", "source", "build", "category", "optional",
)  # fmt: skip
_HEX_DIGITS = {"sha256": re.compile(r"[0-9a-f]{64}"), "md5": re.compile(r"[0-9a-f]{32}")}
_COMMIT_DIGITS = 40
_HEADER = """\
# Written by envtool in the format of conda-lock, version 1. Do not edit: change the sources and lock again.
#   envtool lock                        locks again
#   envtool create -n NAME              makes an environment equal to this file
#   conda-lock install -n NAME FILE     does so with conda, without the proof
"""


def read_lockfile(path: Path) -> Lockfile:
    """Read a conda-lock.yml, whoever wrote it. Raises MissingFileError, or LockfileError with every issue."""
    text = read_text(path, "envtool lock makes it from environment.yml; -f names another")
    return parse_lockfile(str(path), text)


def parse_lockfile(name: str, text: str) -> Lockfile:
    """Parse the content of a conda-lock.yml; the errors are those of `read_lockfile`."""
    conflict = re.search(r"^<<<<<<< ", text, re.MULTILINE)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        issue = Issue(f"{name}:{line}", "an unresolved merge conflict starts here")
        raise LockfileError(name, [issue], "settle the sources, take either side of the lock, and run envtool lock")
    document = YamlDocument(name, text)
    top = document.mapping(document.root, "the file")
    version = top.get("version")
    is_old = version is None and {"metadata", "package"} <= top.keys()  # conda-lock's first ones, in the same format
    if not (document.issues or is_old) and (version is None or version.data != 1):
        found = "no version" if version is None else f"version {version.data!r}"
        document.issue(version.line if version else 1, f"expected version 1 of conda-lock's format, found {found}")
    elif not document.issues:
        document.mapping(document.root, "the file", ("version", "metadata", "package"))
    if document.issues:
        raise LockfileError(name, document.issues, "envtool lock --upgrade writes it anew")
    lockfile = _lockfile(document, top)
    if document.issues:
        raise LockfileError(name, document.issues, "envtool lock --upgrade writes it anew; never edit a lock by hand")
    return lockfile


def write_lockfile(path: Path, lockfile: Lockfile) -> None:
    """Write a lock; an interrupted write leaves the old file. Raises OSError if the file cannot be written."""
    write_atomically(path, format_lockfile(lockfile))


def format_lockfile(lockfile: Lockfile) -> str:
    """The text of a lock: equal values give equal bytes."""
    custom_metadata = dict(lockfile.custom_metadata)
    # The format has no place for sizes, and none for how wheels were built.
    sizes = {_size_key(each.sha256): each.size_bytes for each in lockfile.packages if each.sha256 and each.size_bytes}
    if sizes:
        custom_metadata[SIZES_KEY] = json.dumps(sizes, sort_keys=True, separators=(",", ":"))
    builds = {each.url: asdict(each.built) for each in lockfile.packages if each.built}
    if builds:
        custom_metadata[BUILDS_KEY] = json.dumps(builds, sort_keys=True, indent=1)
    metadata = {
        "content_hash": dict(lockfile.content_hash),
        "channels": [{"url": url, "used_env_vars": sorted(variables_of(url))} for url in lockfile.channels],
        "platforms": list(lockfile.platforms),
        "sources": list(lockfile.sources),
        "custom_metadata": dict(sorted(custom_metadata.items())),
    }
    packages = [_package_dict(each) for each in sorted(lockfile.packages, key=lambda package: package.sort_key)]
    return _HEADER + dump({"version": 1, "metadata": metadata, "package": packages})


def _size_key(sha256: str) -> str:
    return sha256[:12]  # enough to tell the packages of one lock apart


def _package_dict(package: LockedPackage) -> dict[str, Any]:
    hashes = {"md5": package.md5, "sha256": package.sha256}
    # Without its source, conda-lock would ask an index for a repository's version. Source: conda_lock/conda_lock.py.
    is_commit = model.is_repository(package.url)
    return {
        "name": package.name, "version": package.version, "manager": package.manager, "platform": package.platform,
        "dependencies": dict(sorted(package.dependencies.items())), "url": package.url,
        "hash": {kind: digits for kind, digits in hashes.items() if digits},
        **({"source": {"type": "url", "url": package.url}} if is_commit else {}), "category": package.category,
        "optional": package.category != "main",
    }  # fmt: skip


def _lockfile(document: YamlDocument, top: Mapping[str, Value]) -> Lockfile:
    metadata = document.mapping(top.get("metadata"), "metadata")
    packages = document.items(top.get("package"), "package")
    custom_metadata = dict(document.scalars(metadata.get("custom_metadata"), "custom_metadata"))
    _check_variables(document, metadata.get("custom_metadata"), custom_metadata.get(VARIABLES_KEY, "{}"))
    sizes = _read_sizes(custom_metadata.pop(SIZES_KEY, "{}"))
    builds = model.parse_builds(custom_metadata.pop(BUILDS_KEY, "{}"))
    found: dict[tuple[str, str, str, str], tuple[LockedPackage, int]] = {}
    for position, entry in enumerate(packages):
        package = _package(document, position, entry, sizes, builds)
        first = found.setdefault(package.sort_key, (package, entry.line))[1] if package else entry.line
        if package and first != entry.line:
            which = f"{package.name} ({package.manager}, {package.platform}, {package.category})"
            document.issue(entry.line, f"two entries of {which}, the first in line {first}; did a merge keep both?")
    urls = tuple(_channels(document, metadata.get("channels")))
    templates = [each for each in (*urls, *_urls_in(custom_metadata.get(INPUTS_KEY))) if variables_of(each)]
    return Lockfile(
        packages=tuple(
            replace(each, access_url=url) if (url := with_variables(each.url, templates)) != each.url else each
            for each, _ in found.values()
        ),
        channels=urls,
        platforms=tuple(text for text, _ in document.strings(metadata.get("platforms"), "platforms")),
        sources=tuple(text for text, _ in document.strings(metadata.get("sources"), "sources")),
        content_hash=dict(document.scalars(metadata.get("content_hash"), "content_hash")),
        custom_metadata=custom_metadata,
    )


def _check_variables(document: YamlDocument, place: Value | None, text: str) -> None:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        document.issue(place.line if place else 1, f"{VARIABLES_KEY} must be a JSON object of names to strings")
        return
    for problem in filter(None, (model.variable_problem(*each) for each in found.items())):
        document.issue(place.line if place else 1, problem)


def _urls_in(recorded: str | None) -> list[str]:
    """The URLs of package indexes and of distributions in the recorded inputs, variables and all."""
    try:
        inputs = json.loads(recorded or "{}")
        rows = [*inputs.get("general", ()), *(row for rows in inputs.get("platforms", {}).values() for row in rows)]
        indexes = [value for kind, _, value, *_ in rows if kind in ("package index", "pip-repositories")]
        named = [match[1] for kind, _, value, *_ in rows if (match := _URL_OF_LINE.search(value))]
    except (ValueError, TypeError, AttributeError):  # a convenience: spoilt inputs are as good as none
        return []
    return [url for index in indexes for url in index.split(", ")] + named


def _channels(document: YamlDocument, value: Value | None) -> Iterator[str]:
    for each in document.items(value, "channels"):
        # The first versions of conda-lock wrote the name or URL alone.
        named = each if isinstance(each.data, str) else document.mapping(each, "a channel").get("url")
        url = document.string(named, "url")
        if url is not None:
            yield url


def _read_sizes(text: str) -> dict[str, int]:
    # A convenience: one that was spoilt is as good as none.
    try:
        sizes = json.loads(text)
    except ValueError:
        return {}
    return {key: size for key, size in sizes.items() if type(size) is int} if isinstance(sizes, dict) else {}


def _package(
    document: YamlDocument, position: int, value: Value, sizes: Mapping[str, int], builds: Mapping[str, SourceBuild]
) -> LockedPackage | None:
    where = f"package[{position}]"
    entry = document.mapping(value, where, _PACKAGE_KEYS)
    texts = {
        key: document.string(entry.get(key), f"{where}.{key}")
        for key in ("name", "version", "manager", "platform", "url")
    }
    missing = [key for key in texts if key not in entry]
    if missing:
        document.issue(value.line, f"{where} has no {', '.join(missing)}")
    if "manager" in entry and texts["manager"] not in ("conda", "pip"):
        document.issue(entry["manager"].line, f"{where}.manager must be conda or pip, not {texts['manager']!r}")
    is_commit = model.is_repository(texts["url"])
    hashes = _hashes(document, where, entry.get("hash"), value.line, is_commit=is_commit)
    if any(text is None for text in texts.values()):
        return None
    return LockedPackage(
        **{key: text for key, text in texts.items() if text is not None}, sha256=hashes["sha256"], md5=hashes["md5"],
        dependencies=dict(document.scalars(entry.get("dependencies"), f"{where}.dependencies")),
        category=document.string(entry.get("category"), f"{where}.category") or "main",
        build=document.string(entry.get("build"), f"{where}.build"),
        size_bytes=sizes.get(_size_key(hashes["sha256"] or "")), built=builds.get(texts["url"] or ""),
    )  # fmt: skip


def _hashes(
    document: YamlDocument, where: str, value: Value | None, line: int, *, is_commit: bool
) -> dict[str, str | None]:
    hashes: dict[str, str | None] = {"sha256": None, "md5": None}
    for kind, entry in document.mapping(value, f"{where}.hash", ("md5", "sha256")).items():
        digits = document.string(entry, f"{where}.hash.{kind}")
        if is_commit and digits and len(digits) == _COMMIT_DIGITS:
            continue  # conda-lock writes the commit here, which proves nothing of a wheel
        if digits is not None and kind in hashes and not _HEX_DIGITS[kind].fullmatch(digits):
            document.issue(entry.line, f"{where}.hash.{kind} is not a {kind}: {digits!r}")
        hashes[kind] = digits
    if not any(hashes.values()) and not is_commit:
        document.issue(value.line if value else line, f"{where} has no hash")
    return hashes


def read_json_metadata(lockfile: Lockfile, key: str) -> Any:
    """A value that envtool wrote into custom_metadata as JSON, or None."""
    text = lockfile.custom_metadata.get(key)
    return None if text is None else json.loads(text)
