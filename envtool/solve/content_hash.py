"""conda-lock's hash of the sources, so that its `--check-input-hash` agrees with our locks: for each platform the
sha256 of a JSON text of channels, lines as conda-lock understands them (or as they are), and virtual packages. Source:
conda_lock/content_hash.py, conda_lock/src_parser, conda_lock/virtual_package.py (conda-lock 3.0.4 and 4.0.3);
conda/models/match_spec.py `_parse_spec_str`, conda/models/version.py `VersionSpec` and `treeify` (conda 24.7.1)."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urlsplit

from envtool import subprocesses
from envtool.lockfile.conda_lock_v1 import format_lockfile
from envtool.lockfile.model import Lockfile
from envtool.scratch import scratch_directory
from envtool.spec.environment import Dependency, EnvironmentSpec, PlatformSpec

# What nearly every Linux machine in service has, never guessed from the one that locks; CUDA is on no machine until a
# template declares it.
_DECLARED: Mapping[str, Mapping[str, str]] = {
    "linux": {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"},
    "osx": {"__unix": "0", "__osx": "11.0"},
    "win": {"__win": "0"},
}
_ARCHSPECS = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "arm64": "arm64"}


def declared_virtual_packages(platform: str, declarations: Mapping[str, str]) -> dict[str, str]:
    """The virtual packages to solve with, name to `version build`; what is declared wins over the defaults."""
    return {**_DECLARED[platform.partition("-")[0]], "__archspec": archspec_of(platform), **declarations}


def declared_packages(spec: EnvironmentSpec) -> dict[str, dict[str, str]]:
    """The virtual packages of each platform of a specification."""
    return {each.platform: declared_virtual_packages(each.platform, each.virtual_packages) for each in spec.platforms}


def archspec_of(platform: str) -> str:
    """The version and build of `__archspec` on a platform."""
    return f"1 {_ARCHSPECS[platform.partition('-')[2]]}"


_KEY_VALUE = re.compile(r"""([a-zA-Z0-9_-]+?)=(["']?)([^'"]*?)(\2)(?:[, ]|$)""")
_VERSION_AND_BUILD = re.compile(r"((?:.+?)[^><!,|]?)(?:(?<![=!|,<>~])(?:[ =])([^-=,|<>~]+?))?$")
_TOKENS = re.compile(r"\s*\^[^$]*[$]|\s*[()|,]|[^()|,]+")
_DEFAULT_SUBDIRS = ("pkgs/main", "pkgs/r")
_SUBDIR = re.compile(r"/(?:noarch|(?:linux|osx|win|freebsd|zos|emscripten|wasi)-[a-z0-9]+)$")


class MatchSpecText(NamedTuple):
    """The parts of a match spec or None; a version is `1.2.*` for `=1.2`, `1.2` for `==1.2`, and a range as it is."""

    name: str
    version: str | None
    build: str | None
    channel: str | None


def parse(text: str) -> MatchSpecText:
    """The parts of a match spec that `envtool.spec` has accepted."""
    text = text.partition("#")[0].partition(" if ")[0]
    brackets: dict[str, str] = {}
    for opening, closing in (("[", "]"), ("(", ")")):
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))  # the last one, as conda's greedy pattern finds it
        if 0 <= start < end:
            found = {key: value for key, _, value, _ in _KEY_VALUE.findall(text[start + 1 : end]) if value}
            brackets.update(found if opening == "[" else {})
            text = text.replace(text[start : end + 1], "")
    channel, _, text = ["", "", *text.rsplit(":", 2)][-3:]
    match = re.match(r"([^ =<>!~]+)?([><!=~ ].+)?", text)
    name, rest = (match[1] or "", (match[2] or "").strip()) if match else (text, "")
    version, build = _version_and_build(rest) if rest else (None, None)
    version, build = brackets.get("version", version), brackets.get("build", build)
    channel = brackets.get("channel", channel)
    return MatchSpecText(name.lower(), version and _normal(version), build, _canonical(channel) if channel else None)


def _version_and_build(text: str) -> tuple[str, str | None]:
    match = _VERSION_AND_BUILD.search(text)
    version, build = (match[1].replace(" ", ""), match[2]) if match else (text.replace(" ", ""), None)
    build = build.strip() if build else None
    rest = version[1:]
    if not version.startswith("=") or version in ("=", "=="):
        return version, build
    if version.startswith("==") and build is None:
        return version[2:], build
    if not any(character in rest for character in "=,|"):
        return (f"{rest}*" if build is None and not rest.endswith("*") else rest), build
    return version, build


def _normal(version: str) -> str:
    # Each alternative by itself; the parentheses between them get lost in conda's own text.
    normal = ""
    for each in map(str.strip, _TOKENS.findall(version)):
        if each[:1] in ("=", "<", ">", "!", "~") or each in ("*", "(", ")") or "*" in each.rstrip("*"):
            normal += each.strip("()")
        else:
            normal += f"{each[:-1]}.*" if each.endswith("*") and not each.endswith(".*") else each
    return normal


def _canonical(channel: str) -> str:
    # conda takes a channel's path for its name, whatever its host is.
    url = urlsplit(channel)
    path = re.sub(r"^/t/[^/]+/", "/", url.path) if url.scheme else channel
    name = _SUBDIR.sub("", path.rstrip("/")).strip("/")
    if url.scheme == "file":
        name = name.rpartition("/")[2]
    return "defaults" if name in _DEFAULT_SUBDIRS else name or channel


_SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "osx": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    "win": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
}
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_CLAUSE = re.compile(r"""\s*(?:(and|or)\b|([()])|((?:"[^"]*"|'[^']*'|[^()"'])+?)(?=\s+(?:and|or)\b|\s*[()]|\s*$))""")


def content_hashes(spec: EnvironmentSpec, declared: Mapping[str, Mapping[str, str]] | None) -> dict[str, str]:
    """The hash of each platform; without declared virtual packages, conda-lock's defaults count."""
    return {each.platform: _hash(spec, each, declared) for each in sorted(spec.platforms, key=lambda p: p.platform)}


def virtual_package_specification(declared: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Declared virtual packages as conda-lock's `--virtual-package-spec` wants them."""
    return {"subdirs": {platform: {"packages": dict(packages)} for platform, packages in declared.items()}}


def _hash(spec: EnvironmentSpec, platform: PlatformSpec, declared: Mapping[str, Mapping[str, str]] | None) -> str:
    subdir = platform.platform
    if declared is None:
        # Source: conda_lock/default-virtual-packages.yaml, and the second __osx that conda-lock adds to it.
        system = subdir.partition("-")[0]
        more = [("__osx", "10.15")] if subdir == "osx-64" else [("__cuda", "11.4")] if system != "osx" else []
        virtual = [("__archspec", archspec_of(subdir)), *_DECLARED[system].items(), *more]
    else:
        virtual = list(declared.get(subdir, {}).items())
    # Of several lines about one package the last counts.
    lines = {(line["manager"], line["name"]): line for line in _lines(spec, platform)}
    content = {
        "channels": [_channel(channel) for channel in spec.channels],
        "specs": [lines[key] for key in sorted(lines)],
        "virtual_package_hash": {"noarch": _subdir("noarch", []), subdir: _subdir(subdir, virtual)},
    }
    if spec.pip_repositories:
        content["pip_repositories"] = [_compact({"url": pip_repository}) for pip_repository in spec.pip_repositories]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _lines(spec: EnvironmentSpec, platform: PlatformSpec) -> Iterator[dict[str, Any]]:
    conda, pip = list(platform.conda), list(platform.pip)
    for path in spec.paths:
        own = [each for each in conda if _is_in(each, str(path))]
        for each in own:
            found = parse(each.text)
            bounds = {"build": found.build, "conda_channel": found.channel}
            yield _line(found.name, "conda", each.category, found.version or "", **bounds)
        wheels = [each for each in pip if _is_in(each, str(path)) or path == spec.paths[-1]]
        for wheel in wheels:
            line = _pip_line(wheel)
            if _holds(line.get("markers"), platform.platform):
                yield line
        if wheels:  # conda-lock asks for pip itself wherever a file has a section for it
            yield _line("pip", "conda", "main", version="*")
        conda = [each for each in conda if each not in own]
        pip = [each for each in pip if each not in wheels]


def _is_in(dependency: Dependency, path: str) -> bool:
    return dependency.place.rpartition(":")[0] == path


def _line(name: str, manager: str, category: str, version: str = "", **found: Any) -> dict[str, Any]:
    absent: dict[str, Any] = {"build": None, "conda_channel": None, "hash": None, "extras": []}
    return {**absent, "name": name, "manager": manager, "category": category, "version": version, **found}


def _pip_line(dependency: Dependency) -> dict[str, Any]:
    from packaging.requirements import InvalidRequirement, Requirement  # most environments have no wheels
    from packaging.utils import canonicalize_name

    text, marked, markers = dependency.text.rpartition(";") if ";" in dependency.text else (dependency.text, "", "")
    text, _, hashed = text.strip().partition(" --hash=")
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        return _line(dependency.text, "pip", dependency.category)
    line: dict[str, Any] = {"markers": markers.strip()} if marked else {}
    line.update(name=canonicalize_name(parsed.name), manager="pip", category=dependency.category)
    if parsed.url is None:
        version = ",".join(sorted(str(each).replace("===", "==") for each in parsed.specifier)) or "*"
        return _line(**line, version=version, extras=sorted(parsed.extras), hash=hashed or None)
    if parsed.url.startswith("git+"):
        return {**line, "extras": [], "vcs": "git", **_repository(parsed.url)}
    url, fragment = urldefrag(parsed.url)
    return {**line, "extras": sorted(parsed.extras), "url": url, "hashes": [fragment.replace("=", ":")]}


def _repository(url: str) -> dict[str, Any]:
    # As conda-lock cuts it: what comes after the last @ is the revision, and ".git" goes only where the URL ends in it.
    source, at, revision = url[len("git+") :].removesuffix(".git").rpartition("@")
    if not at:
        return {"source": revision, "rev": None}
    revision, _, subdirectory = revision.partition("#subdirectory=")
    return {"source": source, "rev": revision, **({"subdirectory": subdirectory} if subdirectory else {})}


def _holds(markers: str | None, platform: str) -> bool:
    """Whether a marker holds on a platform; a clause that asks for more than the platform counts as true."""
    if not markers:
        return True
    reduced = ""
    for word, parenthesis, clause in _CLAUSE.findall(markers):
        reduced += parenthesis or {"and": "&", "or": "|", "": ""}[word] or "FT"[_clause_holds(clause, platform)]
    rules = [(r"\((.)\)", r"\1"), (r"T&T", "T"), (r"[TF]&[TF]", "F"), (r"F\|F(?!&)", "F"), (r"[TF]\|[TF](?!&)", "T")]
    while len(reduced) > 1:
        before = reduced
        for pattern, result in rules:
            reduced = re.sub(pattern, result, reduced, count=1)
            if reduced != before:
                break
        else:
            return True
    return reduced != "F"


def _clause_holds(clause: str, platform: str) -> bool:
    from packaging.markers import Marker

    if not re.search(r"\b(sys_platform|platform_system|os_name)\b", re.sub(r"\"[^\"]*\"|'[^']*'", "", clause)):
        return True
    return Marker(clause).evaluate(_SYSTEMS[platform.partition("-")[0]])


def _channel(text: str) -> str:
    used: set[str] = set()
    if "://" in text:
        url = urlsplit(text)
        user, at, host = url.netloc.rpartition("@")
        token = re.match(r"(.*/t/)(\$\{?\w+\}?)(/.*)", url.path)
        if at:
            url = url._replace(netloc=f"{_named(user, used)}@{host}")
        if token:
            url = url._replace(path=token[1] + _named(token[2], used) + token[3])
        text = url.geturl()
    return _compact({"url": text, "used_env_vars": sorted(used)})


def _named(text: str, used: set[str]) -> str:
    used.update(_VARIABLE.findall(text))
    return _VARIABLE.sub(r"${\1}", text)


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _subdir(subdir: str, packages: list[tuple[str, str]]) -> dict[str, Any]:
    records = dict(_record(subdir, name, *value.split(" ", 1)) for name, value in packages)
    return {"info": {"subdir": subdir}, "packages": records}


def _record(subdir: str, name: str, version: str, build: str = "") -> tuple[str, dict[str, Any]]:
    full = f"{build}_0" if build else "0"
    return f"{name}-{version}-{full}.tar.bz2", {
        "name": name, "version": version, "build_string": build, "build_number": 0, "build": full, "noarch": "",
        "depends": [], "timestamp": 1577854800000, "package_type": "virtual_system", "subdir": subdir,
    }  # fmt: skip


# In another process: importing conda-lock takes a second and replaces modules that it brings along.
_SCRIPT = """\
import json, pathlib, sys
from conda_lock.content_hash import compute_content_hashes
from conda_lock.lockfile import parse_conda_lock_file
from conda_lock.src_parser import make_lock_spec
from conda_lock.virtual_package import virtual_package_repo_from_specification
here = pathlib.Path(sys.argv[1])
parse_conda_lock_file(here / "conda-lock.yml")
names = (here / "names.json").as_uri()  # none: only pip is looked up, which has the same name everywhere
sources, platforms = [pathlib.Path(each) for each in sys.argv[3:]], sys.argv[2].split(",")
spec = make_lock_spec(src_files=sources, platform_overrides=platforms, mapping_url=names)
print(json.dumps(compute_content_hashes(spec, virtual_package_repo_from_specification(here / "virtual.json"))))
"""


def conda_lock_hashes(lockfile: Lockfile, spec: EnvironmentSpec) -> dict[str, str]:
    """Each platform's content hash as conda-lock computes it. Raises ProcessError if it cannot read lock or sources."""
    declared = declared_packages(spec)
    with scratch_directory() as scratch:
        (scratch / "conda-lock.yml").write_text(format_lockfile(lockfile), encoding="utf-8")
        (scratch / "names.json").write_text("{}")
        (scratch / "virtual.json").write_text(json.dumps(virtual_package_specification(declared)))
        sources = [str(Path(path).resolve()) for path in spec.paths]
        argv = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(scratch), ",".join(sorted(declared)), *sources]
        found: dict[str, str] = json.loads(subprocesses.run(argv, cwd=scratch, env={"RUNNER_TEMP": str(scratch)}))
        return found
