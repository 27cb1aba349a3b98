"""conda's configuration file, `.condarc`: mirrors put in and taken out, everything else as it was.

Source: conda documentation, "Using the .condarc conda configuration file": `default_channels` are what `defaults`
stands for, `custom_channels` maps the name of a channel to the URL that the name is appended to.
"""

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


def location() -> Path:
    """The file that conda reads for this user: the one that is there, or the usual one."""
    if os.environ.get("CONDARC"):
        return Path(os.environ["CONDARC"]).expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path.home() / ".condarc", config / "conda" / ".condarc", Path.home() / ".conda" / ".condarc"]
    return next((each for each in places if each.exists()), places[0])


def rewrite(text: str, mirrors: Mapping[str, str], known: Collection[str], name: str = ".condarc") -> str:
    """The file with other mirrors.

    Args:
        mirrors: canonical channel URL to the mirror's; empty to use none.
        known: the URLs of all presets' channels; those in the file are taken out.

    Raises:
        InvalidFileError: it is not YAML, or no mapping.
    """
    document = _parse(text, name)
    _take_out(document, known)
    defaults = [url for origin, url in mirrors.items() if origin.startswith(_DEFAULTS)]
    if defaults:
        document["default_channels"] = [each.rstrip("/") for each in defaults]
    custom = _custom_channels(mirrors)
    if custom:
        document.setdefault("custom_channels", {}).update(custom)
    if not document and not text.strip():
        return text
    return _dump(document, text)


def _custom_channels(mirrors: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for origin, url in mirrors.items():
        channel = origin.removeprefix(_CHANNELS).rstrip("/")
        # conda appends the name, so a mirror that calls the channel otherwise cannot be said in this way.
        if origin.startswith(_CHANNELS) and url.rstrip("/").endswith(f"/{channel}"):
            found[channel] = url.rstrip("/").removesuffix(f"/{channel}")
    return found


def _take_out(document: Any, known: Collection[str]) -> None:
    ours = {each.rstrip("/") for each in known}
    defaults = document.get("default_channels")
    if isinstance(defaults, list) and defaults and all(str(each).rstrip("/") in ours for each in defaults):
        del document["default_channels"]
    custom = document.get("custom_channels")
    if isinstance(custom, dict):
        for channel in [key for key, url in custom.items() if f"{str(url).rstrip('/')}/{key}" in ours]:
            del custom[channel]
        if not custom:
            del document["custom_channels"]


def _parse(text: str, name: str) -> Any:
    from ruamel.yaml.comments import CommentedMap
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


def _dump(document: Any, text: str) -> str:
    if not document:
        return "".join(line for line in text.splitlines(keepends=True) if line.lstrip().startswith("#"))
    stream = io.StringIO()
    _yaml(text).dump(document, stream)
    return stream.getvalue()


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    # As the file has it; conda itself writes lists indented.
    is_flush = re.search(r"^- ", text, re.MULTILINE) and not re.search(r"^ +- ", text, re.MULTILINE)
    yaml.indent(mapping=2, sequence=2 if is_flush else 4, offset=0 if is_flush else 2)
    return yaml
