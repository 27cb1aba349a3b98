"""`envtool mirror use`: a mirror put into the configuration files of conda, pip and uv, shown before it is done, and
taken out byte for byte. Sources: conda documentation, "Using the .condarc conda configuration file"
(`default_channels` are what `defaults` stands for, `custom_channels` maps a name to the URL that it is appended to);
pip documentation, "Configuration" (`[install]` goes over `[global]`); uv documentation, "Package indexes" (`[[index]]`
with `default = true`)."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envtool import paths
from envtool.atomic_files import write_atomically
from envtool.errors import EnvtoolError, InvalidFileError, Issue
from envtool.fetch.credentials import without_secrets
from envtool.mirrors import mirrors
from envtool.mirrors.mirrors import AUTO, Preset

_DEFAULTS = "https://repo.anaconda.com/pkgs/"
_CHANNELS = "https://conda.anaconda.org/"


def condarc_path() -> Path:
    """The file that conda reads for this user: the one that is there, or the usual one."""
    if os.environ.get("CONDARC"):
        return Path(os.environ["CONDARC"]).expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path.home() / ".condarc", config / "conda" / ".condarc", Path.home() / ".conda" / ".condarc"]
    return next((place for place in places if place.exists()), places[0])


def rewrite_condarc(text: str, mirrors: Mapping[str, str], known: Collection[str], name: str = ".condarc") -> str:
    """The file with other mirrors, canonical channel URL to the mirror's; those in `known`, the URLs of all presets'
    channels, are taken out. Raises InvalidFileError if it is not YAML, or no mapping."""
    document = _parse_condarc(text, name)
    ours = {each.rstrip("/") for each in known}
    used = document.get("default_channels")
    if isinstance(used, list) and used and all(str(each).rstrip("/") in ours for each in used):
        del document["default_channels"]
    named = document.get("custom_channels")
    if isinstance(named, dict):
        for channel in [key for key, url in named.items() if f"{str(url).rstrip('/')}/{key}" in ours]:
            del named[channel]
        if not named:
            del document["custom_channels"]
    defaults = [url for origin, url in mirrors.items() if origin.startswith(_DEFAULTS)]
    if defaults:
        document["default_channels"] = [channel.rstrip("/") for channel in defaults]
    custom = {}
    for origin, url in mirrors.items():
        channel = origin.removeprefix(_CHANNELS).rstrip("/")
        # conda appends the name, so a mirror that calls the channel otherwise cannot be said in this way.
        if origin.startswith(_CHANNELS) and url.rstrip("/").endswith(f"/{channel}"):
            custom[channel] = url.rstrip("/").removesuffix(f"/{channel}")
    if custom:
        document.setdefault("custom_channels", {}).update(custom)
    if not document and not text.strip():
        return text
    if not document:
        return "".join(line for line in text.splitlines(keepends=True) if line.lstrip().startswith("#"))
    stream = io.StringIO()
    _yaml(text).dump(document, stream)
    return stream.getvalue()


def _parse_condarc(text: str, name: str) -> Any:
    from ruamel.yaml.comments import CommentedMap  # slow to import, and few commands write such a file
    from ruamel.yaml.error import YAMLError

    try:
        document = _yaml(text).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise InvalidFileError(name, [Issue(place, f"not YAML: {getattr(error, 'problem', error)}")]) from error
    if document is None:
        document = CommentedMap()
        if text.strip():  # nothing but comments, which ruamel.yaml has no value to hang on
            document.yaml_set_start_comment("\n".join(line.lstrip("#").strip() for line in text.splitlines()))
    if not isinstance(document, dict):
        raise InvalidFileError(name, [Issue(f"{name}:1", "must be a mapping")])
    return document


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    # As the file has it; conda itself writes lists indented.
    is_flush = re.search(r"^- ", text, re.MULTILINE) and not re.search(r"^ +- ", text, re.MULTILINE)
    yaml.indent(mapping=2, sequence=2 if is_flush else 4, offset=0 if is_flush else 2)
    return yaml


_SECTION = re.compile(r"\s*\[(?P<name>[^\]]+)\]")
_INDEX = re.compile(r"(?P<key>index[-_]url)(?P<sign>\s*[=:]\s*)(?P<value>.*?)\s*$", re.IGNORECASE)


def pip_conf_path() -> Path:
    """The file that pip reads for this user: the one that is there, or the usual one."""
    explicit = os.environ.get("PIP_CONFIG_FILE")
    if explicit and explicit != os.devnull:
        return Path(explicit).expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pip" / "pip.conf"
    legacy = Path.home() / ".pip" / "pip.conf"
    return legacy if legacy.exists() and not config.exists() else config


def rewrite_pip_conf(text: str, index: str | None, known: Collection[str]) -> str:
    """The file with another index; None takes out the mirrors in `known`, and those only."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    section, place = "", None
    found: dict[int, re.Match[str]] = {}
    for i, line in enumerate(lines):
        if header := _SECTION.match(line):
            section = header["name"]
            place = i + 1 if section == "global" and place is None else place
        # An indented line goes on with the value before it, so a key starts in the first column.
        elif section in ("global", "install") and (match := _INDEX.match(line)):
            found[i] = match
    if index is None:
        gone = {i for i, match in found.items() if match["value"].rstrip("/") in known}
        left = "".join(line for i, line in enumerate(lines) if i not in gone)
        return "" if gone and left.strip() == "[global]" else left
    for i, match in found.items():
        lines[i] = f"{match['key']}{match['sign']}{index}{newline}"
    if not found:
        if place in (None, len(lines)) and lines and not lines[-1].endswith("\n"):
            lines[-1] += newline
        new = [f"index-url = {index}{newline}"]
        lines[place or len(lines) : place or len(lines)] = new if place else [f"[global]{newline}", *new]
    return "".join(lines)


def uv_toml_path() -> Path:
    """The file that uv reads for this user."""
    explicit = os.environ.get("UV_CONFIG_FILE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "uv" / "uv.toml"


def rewrite_uv_toml(text: str, index: str | None, known: Collection[str], name: str = "uv.toml") -> str:
    """The file with another default index; None takes out the mirrors in `known`, and those only."""
    import tomlkit

    document = parse_toml(text, name)
    if index is not None:
        _put_in_index(document, index)
        return tomlkit.dumps(document)
    if str(document.get("index-url", "")).rstrip("/") in known:
        del document["index-url"]
    entries = document.get("index", [])
    for position in reversed(range(len(entries))):
        if str(entries[position].get("url", "")).rstrip("/") in known:
            del entries[position]
    if "index" in document and not len(document["index"]):
        del document["index"]
    return tomlkit.dumps(document)


def parse_toml(text: str, name: str) -> Any:
    """A TOML file that keeps its comments and blanks when it is written. Raises InvalidFileError if it is not TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise InvalidFileError(name, [Issue(name, f"not TOML: {error}")]) from error


def _put_in_index(document: Any, index: str) -> None:
    import tomlkit

    if "index-url" in document:  # the older way to say the same
        document["index-url"] = index
        return
    for entry in document.get("index", []):
        if entry.get("default"):
            entry["url"] = index
            return
    if "index" not in document:
        document["index"] = tomlkit.aot()
    is_inline = isinstance(document["index"], tomlkit.items.Array)
    entry = tomlkit.inline_table() if is_inline else tomlkit.table()
    entry["url"] = index
    entry["default"] = True
    document["index"].append(entry)


_JOURNAL = "journal.json"


class Edit(NamedTuple):
    """A change of one file."""

    path: Path
    before: str | None
    after: str

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.after == (self.before or "")


def read(path: Path) -> str | None:
    """The text of a file, byte for byte with its line ends; None when there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise EnvtoolError(f"{path} cannot be read: {reason}") from error


def diff(edits: Sequence[Edit]) -> str:
    """The changes as a unified diff; credentials in it are masked."""
    parts: list[str] = []
    for edit in edits:
        if edit.is_empty:
            continue
        old = without_secrets(edit.before or "").splitlines()
        new = without_secrets(edit.after).splitlines()
        source = "/dev/null" if edit.before is None else str(edit.path)
        parts += difflib.unified_diff(old, new, source, str(edit.path), lineterm="")
    return "\n".join(parts)


def apply(edits: Sequence[Edit], journal: Path) -> list[Path]:
    """Make the changes, and keep what was there. Raises EnvtoolError if a file cannot be written or was changed."""
    due = [edit for edit in edits if not edit.is_empty]
    for each in due:
        if read(each.path) != each.before:
            raise EnvtoolError(f"{each.path} was changed by another program just now", "run the same command again")
    if not due:
        return []
    try:
        _keep(due, journal)
        for each in due:
            _write(each.path, each.after.encode(), _mode(each.path))
    except OSError as error:
        raise EnvtoolError(f"{error.filename or journal} cannot be written: {error.strerror}") from error
    return [each.path for each in due]


def undo(journal: Path) -> list[Path]:
    """Take the last change back. Raises EnvtoolError if there is none, or a file was changed since."""
    entries = _entries(journal)
    if not entries:
        raise EnvtoolError("there is no change to take back", "envtool mirror use makes one")
    last = entries[-1]
    files = json.loads((last / _JOURNAL).read_text(encoding="utf-8"))["files"]
    for file in files:
        now = read(Path(file["path"]))
        if now is not None and _sha256(now.encode()) not in (file["after_sha256"], file["before_sha256"]):
            raise EnvtoolError(
                f"{file['path']} was changed since; it is not touched", f"what it said before is in {last}"
            )
    for each in files:
        path = Path(each["path"])
        if each["before_sha256"] is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, (last / each["kept"]).read_bytes(), each["mode"])
    shutil.rmtree(last)
    return [Path(each["path"]) for each in files]


def _keep(edits: Sequence[Edit], journal: Path) -> None:
    entries = _entries(journal)
    number = int(entries[-1].name) + 1 if entries else 1
    journal.mkdir(parents=True, exist_ok=True)
    place = journal / f"{number:04}"
    place.mkdir(mode=0o700)
    files = []
    for position, each in enumerate(edits):
        before = None if each.before is None else each.before.encode()
        if before is not None:
            _write(place / str(position), before, 0o600)
        files.append({
            "path": str(each.path), "kept": str(position), "mode": _mode(each.path),
            "before_sha256": None if before is None else _sha256(before),
            "after_sha256": _sha256(each.after.encode()),
        })  # fmt: skip
    # Written last: without it the directory counts for nothing.
    write_atomically(place / _JOURNAL, json.dumps({"files": files}, indent=2) + "\n")


def _entries(journal: Path) -> list[Path]:
    return sorted(path.parent for path in journal.glob(f"[0-9]*/{_JOURNAL}"))


def _write(path: Path, content: bytes, mode: int) -> None:
    # Through a link to the file itself, since many people keep these files in a repository.
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content, mode)


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o644


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


OFF = "off"
_PATHS = {
    "conda": condarc_path, "pip": pip_conf_path, "uv": uv_toml_path
}  # fmt: skip
TOOLS = tuple(_PATHS)


def journal() -> Path:
    """Where the changes are kept that can be taken back."""
    return paths.home() / "mirror-use"


def plan(names: Sequence[str], tools: Sequence[str], known: Mapping[str, Preset], best: Preset | None) -> list[Edit]:
    """The changes that make envtool, and tools, use mirrors. Raises EnvtoolError if names or a file cannot be used."""
    if len(names) > 1 and {AUTO, OFF} & set(names):
        raise EnvtoolError("auto and off stand alone", "envtool mirror use auto")
    missing = [name for name in names if name not in known and name not in (AUTO, OFF)]
    if missing:
        raise EnvtoolError(f"there is no mirror preset {missing[0]!r}", f"there are: {', '.join(known)}")
    if tuple(names) == (AUTO,) and tools and best is None:
        message = f"{', '.join(tools)} cannot choose by measurement, and nothing was measured during the last day"
        raise EnvtoolError(message, "envtool mirror probe measures; or name a preset")
    config = mirrors.config_path()
    before = read(config)
    edit = Edit(config, before, use(before or "", names, str(config)))
    chosen = [best] if tuple(names) == (AUTO,) and best else [known[each] for each in names if each in known]
    return [edit, *(_tool_edit(tool, chosen, known) for tool in tools)]


def use(text: str, names: Sequence[str], name: str = "config.toml") -> str:
    """envtool's own configuration with other mirrors in use, everything else as it was."""
    import tomlkit

    document = parse_toml(text, name)
    if isinstance(document.get("mirrors"), str):
        del document["mirrors"]
    if tuple(names) == (OFF,):
        if "use" in document.get("mirrors", {}):
            del document["mirrors"]["use"]
            if not document["mirrors"]:
                del document["mirrors"]
    else:
        document.setdefault("mirrors", tomlkit.table())["use"] = names[0] if len(names) == 1 else list(names)
    return tomlkit.dumps(document)


def _tool_edit(tool: str, chosen: Sequence[Preset], known: Mapping[str, Preset]) -> Edit:
    # These tools ask one place, so each channel and the index come from the first preset that has it.
    path = _PATHS[tool]()
    before = read(path)
    text, name = before or "", str(path)
    if tool == "conda":
        channels = {url for each in known.values() for url in each.channels.values()}
        first = {channel: url for each in reversed(chosen) for channel, url in each.channels.items()}
        return Edit(path, before, rewrite_condarc(text, first, channels, name))
    index = next((each.pypi for each in chosen if each.pypi), None)
    if chosen and index is None:
        names = " and ".join(each.name for each in chosen)
        raise EnvtoolError(f"{names} has no package index for {tool}", "name one that has: envtool mirror list")
    indexes = {each.pypi.rstrip("/") for each in known.values() if each.pypi}
    if tool == "pip":
        return Edit(path, before, rewrite_pip_conf(text, index, indexes))
    return Edit(path, before, rewrite_uv_toml(text, index, indexes, name))
