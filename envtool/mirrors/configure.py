"""`envtool mirror use`: the changes of configuration files by which a mirror is used. Nothing is written here.

Out of scope: making the changes and taking them back (`envtool.mirrors.config_edits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envtool import paths
from envtool.errors import EnvtoolError, InvalidFileError, Issue
from envtool.mirrors import condarc, config_toml, pip_conf, uv_toml
from envtool.mirrors.config_edits import Edit, read
from envtool.mirrors.presets import Preset
from envtool.mirrors.selection import AUTO

OFF = "off"
TOOLS = ("conda", "pip", "uv")


def journal() -> Path:
    """Where the changes are kept that can be taken back."""
    return paths.home() / "mirror-use"


def plan(names: Sequence[str], tools: Sequence[str], known: Mapping[str, Preset], best: Preset | None) -> list[Edit]:
    """The changes that make envtool, and other tools on request, use mirrors.

    Raises:
        EnvtoolError: the names or a file cannot be used.
    """
    if len(names) > 1 and {AUTO, OFF} & set(names):
        raise EnvtoolError("auto and off stand alone", "envtool mirror use auto")
    missing = [each for each in names if each not in known and each not in (AUTO, OFF)]
    if missing:
        raise EnvtoolError(f"there is no mirror preset {missing[0]!r}", f"there are: {', '.join(known)}")
    config = config_toml.location()
    before = read(config)
    edits = [Edit(config, before, use(before or "", names, str(config)))]
    chosen = [] if tuple(names) == (OFF,) else _for_tools(names, known, best, tools)
    return [*edits, *(_tool_edit(tool, chosen, known) for tool in tools)]


def use(text: str, names: Sequence[str], name: str = "config.toml") -> str:
    """envtool's own configuration with other mirrors in use, everything else as it was."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document: Any = tomlkit.parse(text)
    except TOMLKitError as error:
        raise InvalidFileError(name, [Issue(name, f"not TOML: {error}")]) from error
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


def _for_tools(
    names: Sequence[str], known: Mapping[str, Preset], best: Preset | None, tools: Sequence[str]
) -> list[Preset]:
    if tuple(names) != (AUTO,):
        return [known[each] for each in names]
    if tools and best is None:
        message = f"{', '.join(tools)} cannot choose by measurement, and nothing was measured during the last day"
        raise EnvtoolError(message, "envtool mirror probe measures; or name a preset")
    return [best] if best else []


def _tool_edit(tool: str, chosen: Sequence[Preset], known: Mapping[str, Preset]) -> Edit:
    # These tools ask one place, so each channel and the index come from the first preset that has it.
    if tool == "conda":
        path = condarc.location()
        before = read(path)
        channels = {url for each in known.values() for url in each.channels.values()}
        first = {channel: url for each in reversed(chosen) for channel, url in each.channels.items()}
        return Edit(path, before, condarc.rewrite(before or "", first, channels, str(path)))
    index = next((each.pypi for each in chosen if each.pypi), None)
    if chosen and index is None:
        names = " and ".join(each.name for each in chosen)
        raise EnvtoolError(f"{names} has no package index for {tool}", "name one that has: envtool mirror list")
    indexes = {each.pypi.rstrip("/") for each in known.values() if each.pypi}
    if tool == "pip":
        path = pip_conf.location()
        before = read(path)
        return Edit(path, before, pip_conf.rewrite(before or "", index, indexes))
    path = uv_toml.location()
    before = read(path)
    return Edit(path, before, uv_toml.rewrite(before or "", index, indexes, str(path)))
