"""The settings: a TOML file, with `SERVE_*` variables over it.

The file is the one that `SERVE_CONFIG` names, or `serve.toml` in the working directory where there is one. Every key
can be set as a variable by its name in capitals: `poll_s` as `SERVE_POLL_S`. Paths in the file are relative to the
file, paths in variables to the working directory. People write settings by hand, so an unknown key is an error, and
all problems are told at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from serve import values
from serve.errors import Issue, SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "SERVE_"
CONFIG_VARIABLE = "SERVE_CONFIG"
DEFAULT_FILE = "serve.toml"
_REQUIRED = object()


@dataclass(frozen=True)
class Settings:
    """How a server is to run; see `FIELDS` for what each means in the file.

    Units:
        `_s` is seconds, `_bytes` bytes.
    """

    model: str
    checkpoints: Path
    name: str
    store: Path
    model_args: Mapping[str, object]
    python_path: tuple[Path, ...]
    allowed_pickles: frozenset[str]
    format: str
    pickle: str
    verify_key: tuple[Path, ...]
    device: str
    memory: str
    warm_up_sizes: tuple[int, ...]
    warm_up_timeout_s: float
    changed_interface: str
    torch_threads: int
    commit: str
    commit_timeout_s: float
    watch: str
    poll_s: float
    settle_s: float
    keep: int
    boot_wait_s: float
    max_body_bytes: int
    event_hook: str
    bind: str
    workers: int
    threads: int


@dataclass(frozen=True)
class Field:
    """One key of the settings.

    Args:
        key: its name in the file.
        parse: turns a value of the file, or the text of a variable, into the setting.
        help: what it means.
        default: what holds where nobody sets it, in the form of the file.
    """

    key: str
    parse: Callable[[object, Path], Any]
    help: str
    default: object = _REQUIRED

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.key.upper()

    def default_as_json(self) -> dict[str, object]:
        """Return the default under the key `default`; nothing where a value is required."""
        return {} if self.default is _REQUIRED else {"default": self.default}


FIELDS = (
    Field("model", values.import_name, "the model class, as module:Class"),
    Field("checkpoints", values.place, "the watched place: one checkpoint that is overwritten, or a directory of them"),
    Field("name", values.word, "the model's name in answers and logs; default: the class name", ""),
    Field("store", values.path, "directory of the read-only copies, on a local disk", ".envserve-store"),
    Field("model_args", values.table, "keyword arguments of the model class", {}),
    Field("python_path", values.paths, "directories in which the model's module is looked for first", ()),
    Field("allowed_pickles", values.sha256_list, "sha256 of checkpoints that may be unpickled in full", ()),
    Field(
        "format",
        values.one_of("auto", "safetensors", "torch", "torchscript"),
        "what checkpoints are; auto: safetensors or torch, by their first bytes",
        "auto",
    ),
    Field(
        "pickle",
        values.one_of("refuse", "weights_only", "trusted"),
        "what may be unpickled: nothing; tensors only, and allowed_pickles in full; also in full what is signed",
        "weights_only",
    ),
    Field("verify_key", values.paths, "public keys (PEM) of which one must have signed every checkpoint", ()),
    Field("device", values.text, "where the model computes: cpu, cuda, cuda:1", "cpu"),
    Field(
        "memory",
        values.one_of("availability", "resource", "unchecked"),
        "availability: two models for a moment, refused if they would not fit; resource: unload before loading, "
        "requests get 503 meanwhile; unchecked: as availability, without the look at free memory",
        "availability",
    ),
    Field("warm_up_sizes", values.whole_numbers(1), "numbers of rows to warm up with, beside the example's", ()),
    Field("warm_up_timeout_s", values.seconds(0.01), "seconds that warm-up, golden requests and validate() have", 60.0),
    Field(
        "changed_interface",
        values.one_of("refuse", "allow"),
        "what becomes of a model whose answer to the example has another form than the served one's",
        "refuse",
    ),
    Field("torch_threads", values.whole_number(1), "threads of one torch operation", 1),
    Field(
        "commit",
        values.one_of("host", "worker"),
        "host: all workers move at the same instant; worker: each for itself",
        "host",
    ),
    Field("commit_timeout_s", values.seconds(0.1), "seconds in which every worker must have prepared", 120.0),
    Field(
        "watch",
        values.one_of("auto", "inotify", "poll"),
        "auto: file events where they can be trusted; inotify: wherever they can be had; poll: the timer alone",
        "auto",
    ),
    Field("poll_s", values.seconds(0.01), "seconds between two looks at the watched place", 1.0),
    Field("settle_s", values.seconds(0.01), "seconds that a checkpoint with an empty marker must hold still", 0.2),
    Field("keep", values.whole_number(1), "how many generations the store keeps", 3),
    Field("boot_wait_s", values.seconds(0.0), "seconds a new worker may load before it takes requests", 60.0),
    Field("max_body_bytes", values.whole_number(1), "longest request body", 16 * 1024 * 1024),
    Field(
        "event_hook", values.optional_text, "a command that gets each event on stdin, or a URL that gets it by POST", ""
    ),
    Field("bind", values.text, "address and port to listen on", "127.0.0.1:8000"),
    Field("workers", values.whole_number(1), "worker processes", 2),
    Field("threads", values.whole_number(1), "request threads of each worker", 8),
)


def load_settings(environ: Mapping[str, str], directory: Path) -> Settings:
    """Read and check all settings.

    Args:
        environ: the environment variables.
        directory: the working directory.

    Returns:
        The settings.

    Raises:
        SettingsError: with every issue found in the file and in the variables.
    """
    issues: list[Issue] = []
    parsed: dict[str, object] = {}
    file, stated = _read_file(environ, directory, issues)
    _report_unknown(file, stated, environ, issues)
    for field in FIELDS:
        place, value, base = _find(field, file, stated, environ, directory)
        if value is _REQUIRED:
            hint = f"set it in {DEFAULT_FILE}, or as {field.variable}"
            issues.append(Issue(field.key, f"missing; it is {field.help}", hint))
            continue
        try:
            parsed[field.key] = field.parse(value, base)
        except ValueError as error:
            issues.append(Issue(place, str(error), f"it is {field.help}"))
    if issues:
        raise SettingsError(issues)
    parsed["name"] = parsed["name"] or str(parsed["model"]).rpartition(":")[2]
    return Settings(**parsed)  # type: ignore[arg-type]


def _read_file(environ: Mapping[str, str], directory: Path, issues: list[Issue]) -> tuple[Path, Mapping[str, object]]:
    named = environ.get(CONFIG_VARIABLE)
    path = directory / (named or DEFAULT_FILE)
    if not named and not path.exists():
        return path, {}
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        issues.append(
            Issue(CONFIG_VARIABLE if named else str(path), f"{path}: {error.strerror}", "name a file that can be read")
        )
    except ValueError as error:
        issues.append(Issue(str(path), f"not TOML: {error}", "texts need quotes; tables like [model_args] come last"))
    return path, {}


def _report_unknown(file: Path, stated: Mapping[str, object], environ: Mapping[str, str], issues: list[Issue]) -> None:
    keys = {field.key for field in FIELDS}
    variables = {field.variable for field in FIELDS} | {CONFIG_VARIABLE}
    for key in sorted(set(stated) - keys):
        issues.append(Issue(f"{file.name}: {key}", "unknown key", values.nearest(key, keys)))
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if variable not in variables:
            issues.append(Issue(variable, "unknown variable", values.nearest(variable, variables)))


def _find(
    field: Field, file: Path, stated: Mapping[str, object], environ: Mapping[str, str], directory: Path
) -> tuple[str, object, Path]:
    if field.variable in environ:
        return field.variable, environ[field.variable], directory
    if field.key in stated:
        return f"{file.name}: {field.key}", stated[field.key], file.parent
    return field.key, field.default, file.parent
