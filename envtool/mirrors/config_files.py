"""The configuration files of conda, pip and uv: a mirror put in and taken out, everything else as it was. Sources:
conda documentation, "Using the .condarc conda configuration file" (`default_channels` are what `defaults` stands for,
`custom_channels` maps a name to the URL that it is appended to); pip documentation, "Configuration" (`[install]` goes
over `[global]`); uv documentation, "Package indexes" (`[[index]]` with `default = true`)."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from envtool.errors import InvalidFileError, Issue

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
