"""The lines of a `pip:` section, in files that `-r` and `-c` name too: requirements with their hashes, and the few
options of pip that a lock has a use for; any other line is an issue. As with pip, a file has to match one hash of every
line that names the distribution, constraints included; uv only notes such hashes. Source: pip documentation, "Secure
installs"; pip/_internal/models/link.py, `_SUPPORTED_HASHES`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urldefrag

from envtool.errors import Issue
from envtool.fetch import credentials
from envtool.lockfile import model

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_HASH_OPTION = re.compile(r"""\s+--hash(?:=|\s+)(?P<quote>["']?)(?P<hash>[^\s"']+)(?P=quote)""")
_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_OF_OPTIONS = ("sha256", "sha384", "sha512")
_NO_HASHES = ("egg", "subdirectory")


def split_hashes(requirement: str) -> tuple[str, frozenset[str]]:
    """A requirement without its hashes, and the hashes as `sha256:<hex>`; what is in a URL counts as well."""
    bare = _HASH_OPTION.sub("", requirement).strip()
    found = {match["hash"].lower() for match in _HASH_OPTION.finditer(requirement)}
    url = _url_in(bare)
    if url:
        found |= {f"{kind}:{digits}".lower() for kind, digits in _fragment_of(url) if kind in _DIGITS}
        bare = bare.replace(url, urldefrag(url).url, 1)
    return bare, frozenset(found)


def hashes_problem(requirement: str) -> str | None:
    """Why a hash of a requirement cannot be checked, or None when each can."""
    options = [match["hash"] for match in _HASH_OPTION.finditer(requirement)]
    url = _url_in(_HASH_OPTION.sub("", requirement).strip())
    in_url = [f"{kind}:{digits}" for kind, digits in _fragment_of(url or "") if kind not in _NO_HASHES]
    for text, kinds in [*((option, _OF_OPTIONS) for option in options), *((each, tuple(_DIGITS)) for each in in_url)]:
        kind, _, digits = text.partition(":")
        if kind.lower() not in kinds:
            return f"a hash of the kind {kind!r} cannot be checked; {', '.join(kinds)} can"
        if not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGITS[kind.lower()]}}}", digits):
            return f"{digits!r} is not a valid {kind.lower()}: expected {_DIGITS[kind.lower()]} hexadecimal digits"
    return None


def _parsed(requirement: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement  # most environments have no wheels

    try:
        return Requirement(requirement)
    except InvalidRequirement:
        return None


def _url_in(requirement: str) -> str | None:
    parsed = _parsed(requirement)
    return parsed.url if parsed and parsed.url and not re.match(r"\w+\+", parsed.url) else None


def _fragment_of(url: str) -> list[tuple[str, str]]:
    return [(kind.lower(), value) for kind, value in parse_qsl(urldefrag(url).fragment, keep_blank_values=True)]


_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTION = re.compile(r"^(?:(--[A-Za-z][A-Za-z-]*)(?:[= ]\s*(.*))?|(-[A-Za-z])[= ]?\s*(.*))$")
_URL = re.compile(r"^(?:git\+|https?:)\S+")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?)")
_WHEEL_NAME = re.compile(r"/([A-Za-z0-9][\w.]*)-[^/]*\.whl(?:#\S*)?$")
_FILES = {"-r": "requirements", "--requirement": "requirements", "-c": "constraints", "--constraint": "constraints"}
_INDEXES = ("-i", "--index-url", "--extra-index-url")
LITERAL = "credentials in {}; write variables: https://$USER:$TOKEN@host/"
_EDITABLE = ("-e", "--editable")
_AFTER_CREATE = (
    "an editable project has no hash, so that it cannot be locked; take the line out, and install it after the "
    "environment is made: envtool run -n NAME -- pip install --no-deps -e {}"
)


class Line(NamedTuple):
    """One line that somebody wrote (`place`: where: `environment.yml:7` or `requirements.txt:2`)."""

    text: str
    place: str


@dataclass
class Requirements:
    """What the lines of a `pip:` section come to (`index_url`: the index that stands for the default one)."""

    requirements: list[Line] = field(default_factory=list)
    constraints: list[Line] = field(default_factory=list)
    index_url: Line | None = None
    extra_index_urls: list[Line] = field(default_factory=list)
    allows_prereleases: bool = False
    requires_hashes: bool = False
    issues: list[Issue] = field(default_factory=list)


def parse(lines: Sequence[Line], base: Path) -> Requirements:
    """Parse the lines of a `pip:` section (`base`: the directory that files in them are relative to)."""
    result = Requirements()
    for line in lines:
        _add(result, line, base, "requirements", ())
    return result


def name_of(requirement: str) -> str | None:
    """The normalized name (PEP 503) of the distribution that a requirement asks for, None when it names none."""
    parsed = _parsed(split_hashes(requirement)[0])
    return re.sub(r"[-_.]+", "-", parsed.name).lower() if parsed else None


def allows(requirement: str, version: str) -> bool:
    """Whether a requirement takes a version of its distribution; one that names a URL or has a marker may take any."""
    from packaging.requirements import Requirement

    parsed = Requirement(split_hashes(requirement)[0])
    return parsed.marker is not None or parsed.specifier.contains(version, prereleases=True)


def url_of(requirement: str) -> str | None:
    """The URL that a requirement names its distribution by, if it does."""
    parsed = _parsed(split_hashes(requirement)[0])
    return parsed.url if parsed else None


def with_url(requirement: str, url: str) -> str:
    """The requirement with another URL; its extras and its marker stay."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    parsed.url = url
    return str(parsed)


def expanded(requirement: str) -> str:
    """The requirement with the values of the variables in its URL: uv knows `${NAME}` alone, and does not quote them.
    Raises EnvtoolError if a variable is not set."""
    url = url_of(requirement)
    if url is None or not credentials.variables_of(url):
        return requirement
    return with_url(requirement, credentials.expand(url))


def _add(result: Requirements, line: Line, base: Path, kind: str, files: tuple[Path, ...]) -> None:
    text = _COMMENT.sub("", line.text).strip()
    option = _OPTION.match(text)
    if not text:
        return
    if option is None:
        _add_requirement(result, Line(text, line.place), kind)
        return
    flag, value = option[1] or option[3], (option[2] or option[4] or "").strip().strip("'\"")
    if flag in _FILES:
        _add_file(result, Line(value, line.place), base, _FILES[flag] if kind == "requirements" else kind, files)
    elif flag in _INDEXES and value:
        if credentials.is_literal(value):
            result.issues.append(Issue(line.place, LITERAL.format(credentials.strip(value))))
        if flag == "--extra-index-url":
            result.extra_index_urls.append(Line(value, line.place))
        elif result.index_url is not None and result.index_url.text != value:
            first = credentials.without_secrets(result.index_url.text)
            result.issues.append(Issue(line.place, f"expected one index URL, {first} is set already"))
        else:
            result.index_url = Line(value, line.place)
    elif flag == "--pre":
        result.allows_prereleases = True
    elif flag == "--require-hashes":
        result.requires_hashes = True
    else:
        result.issues.append(Issue(line.place, _refusal(flag, value)))


def _refusal(flag: str, value: str) -> str:
    if flag not in _EDITABLE:
        return f"the option {flag} cannot be part of a lock; set it in the configuration of pip or uv"
    if value.startswith("git+"):
        return f"an editable project has no hash, so that it cannot be locked; write {_named(value)!r} for its commit"
    return _AFTER_CREATE.format(value or ".")


def _named(text: str) -> str:
    """A URL as `NAME @ URL`, with its name where it states it: `git+https://host/x#egg=name`, or a wheel's own."""
    url = _URL.match(text)
    name = url and (_EGG.search(url[0]) or _WHEEL_NAME.search(url[0]))
    if not (url and name):
        return f"NAME @ {text}" if url else text
    return f"{name[1]} @ {text}"


def _add_requirement(result: Requirements, line: Line, kind: str) -> None:
    if _URL.match(line.text) and not (named := _named(line.text)).startswith("NAME @ "):
        line = Line(named, line.place)
    problem = _problem(line.text, kind)
    if problem:
        result.issues.append(Issue(line.place, problem))
    elif kind == "requirements":
        result.requirements.append(line)
    else:
        result.constraints.append(line)


def _problem(text: str, kind: str) -> str | None:
    if text.startswith(("git+", "http://", "https://")):
        return f"{text!r} does not say its name; write it as NAME @ URL"
    if text.startswith((".", "/", "~", "file:")) or (text.endswith((".whl", ".tar.gz", ".zip")) and "@" not in text):
        return f"{text!r} is a local file; publish it to an index or a channel, so that other machines can download it"
    if name_of(text) is None:
        return f"{text!r} is not a valid requirement for pip, for example torch==1.12.1"
    url = url_of(text)
    if model.is_repository(url):
        if kind == "constraints":
            return "a repository cannot bound a version; name it in the pip section itself"
        if split_hashes(text)[1]:
            return "--hash has no meaning for a repository; write the commit after the @"
        try:
            model.parse_repository(str(url))
        except ValueError as error:
            return str(error)
        return None
    if url and re.match(r"(hg|svn|bzr)\+", url):
        return f"{text!r}: of version control systems, only git is known"
    if url and url.startswith("file:"):
        return f"{text!r} is a local file; publish it to an index or a channel, so that other machines can download it"
    if url and credentials.is_literal(url):
        return f"credentials in {credentials.strip(url)}; write variables: NAME @ https://$USER:$TOKEN@host/"
    return hashes_problem(text)


def _add_file(result: Requirements, line: Line, base: Path, kind: str, files: tuple[Path, ...]) -> None:
    text = re.sub(r"^file:(//(localhost)?(?=/))?", "", line.text)
    if "://" in text:
        hint = "put it beside environment.yml and name it there, so that the lock can be checked without a network"
        result.issues.append(Issue(line.place, f"{text} is not a local file; {hint}"))
        return
    path = base / unquote(text) if text != line.text else base / text
    if path.resolve() in files:
        result.issues.append(Issue(line.place, f"{line.text} names itself"))
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        result.issues.append(Issue(line.place, f"{path} cannot be read: {reason}"))
        return
    for number, each in _logical_lines(text):
        _add(result, Line(each, f"{path}:{number}"), path.parent, kind, (*files, path.resolve()))


def _logical_lines(text: str) -> list[tuple[int, str]]:
    # A backslash at its end joins a line to the next one, as pip reads it.
    lines: list[tuple[int, str]] = []
    pending: tuple[int, str] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        start, before = pending or (number, "")
        whole = before + line.rstrip("\r")
        pending = (start, whole[:-1]) if whole.endswith("\\") else None
        if pending is None:
            lines.append((start, whole))
    return [*lines, pending] if pending else lines
