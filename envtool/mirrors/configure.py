"""`envtool mirror use`: changes of configuration files, shown before they are made, and taken back byte for byte."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from envtool import paths
from envtool.atomic_files import write_atomically
from envtool.errors import EnvtoolError
from envtool.fetch.credentials import without_secrets
from envtool.mirrors import config_files, mirrors
from envtool.mirrors.mirrors import AUTO, Preset

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
    "conda": config_files.condarc_path, "pip": config_files.pip_conf_path, "uv": config_files.uv_toml_path
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

    document = config_files.parse_toml(text, name)
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
        return Edit(path, before, config_files.rewrite_condarc(text, first, channels, name))
    index = next((each.pypi for each in chosen if each.pypi), None)
    if chosen and index is None:
        names = " and ".join(each.name for each in chosen)
        raise EnvtoolError(f"{names} has no package index for {tool}", "name one that has: envtool mirror list")
    indexes = {each.pypi.rstrip("/") for each in known.values() if each.pypi}
    if tool == "pip":
        return Edit(path, before, config_files.rewrite_pip_conf(text, index, indexes))
    return Edit(path, before, config_files.rewrite_uv_toml(text, index, indexes, name))
