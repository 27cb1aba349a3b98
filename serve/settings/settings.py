"""The settings: a TOML file, with `SERVE_*` variables over it.

The file is the one that `SERVE_CONFIG` names, or `serve.toml` in the working directory where there is one. Every key
can be set as a variable by its name in capitals: `poll_s` as `SERVE_POLL_S`. Paths in the file are relative to the
file, paths in variables to the working directory. People write settings by hand, so an unknown key is an error, and
all problems are reported at once.

A server of one model has its keys at the top. A server of several has a table for each, `[models.NAME]`; what stands
at the top holds for all of them. A model may have a canary and a shadow, `[models.NAME.canary]` and
`[models.NAME.shadow]`: each watches a place of its own, and takes all that it does not say from the model's table.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from serve.errors import Issue, SettingsError
from serve.settings import parsers
from serve.settings.fields import FIELDS, MODEL, PREFIX, REQUIRED, SERVER, Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "SERVE_CONFIG"
DEFAULT_FILE = "serve.toml"
STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
_MODELS = "models"
_PROMOTE = Field(
    "promote",
    parsers.numbers("requests", "errors", "p99_ratio", "agreement"),
    "what it takes to become the stable one: answers, the most share of errors and times the p99, the least agreement",
    {},
)
_TIMEOUT = Field("timeout_s", parsers.seconds(1.0), "seconds after which it ends without promote", 3600.0)
_COMPARE = Field(
    "compare",
    parsers.one_of("tolerance", "exact", "top1"),
    "when two answers agree: within the tolerances of golden requests, exactly, or by the place of the largest number",
    "tolerance",
)
_OF_LABELS = {
    CANARY: (
        Field("share", parsers.share, "which part of the requests it answers: 0.1 is one of ten", 0.1),
        _PROMOTE,
        Field(
            "abort",
            parsers.numbers("errors", "finite", "range", "unhealthy", "slower", "disagreed"),
            "by signal, the share of bad answers that is noise; slower: how many times slower a run may be",
            {},
        ),
        _TIMEOUT,
        _COMPARE,
    ),
    SHADOW: (
        Field("share", parsers.share, "which part of the requests it is asked as well: 1 is all", 1.0),
        _PROMOTE,
        Field(
            "then",
            parsers.one_of("hold", "promote", "refuse"),
            "what follows from the verdict of promote: nothing; it becomes the stable one; one that differs is refused",
            "hold",
        ),
        _TIMEOUT,
        _COMPARE,
    ),
}
# What tells one model from another is never taken over, neither from the top nor by a label from its model.
_OWN = frozenset({"name", "store", "checkpoints"})
_OF_SERVER = [known for known in FIELDS if known.scope == SERVER]
_OF_MODEL = [known for known in FIELDS if known.scope == MODEL]
_OF_TABLE = [known for known in _OF_MODEL if known.key not in ("name", "store")]
_STORE = next(known for known in FIELDS if known.key == "store")


@dataclass(frozen=True)
class Settings:
    """How one model, or one label of it, is to be served; `serve.settings.fields` states what each key means."""

    model: str
    checkpoints: Path
    name: str
    store: Path
    model_args: Mapping[str, object]
    example_inputs: object
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
    stateful: str
    optimize: str
    torch_threads: int
    commit: str
    commit_timeout_s: float
    watch: str
    poll_s: float
    settle_s: float
    keep: int
    max_batch_size: int
    max_batch_delay_ms: int
    batch_check_share: float
    probation_s: float
    probation_requests: int
    probation_rule: Mapping[str, float]
    retry_spoiled: str
    event_hook: str
    unload: str
    fleet: str
    fleet_secrets: Path | None
    fleet_host: str
    fleet_cut_off: str
    fleet_lease_s: float
    fleet_hold_s: float
    fleet_evict_s: float
    workers: int
    label: str = STABLE
    share: float = 1.0
    promote: Mapping[str, float] = field(default_factory=dict)
    abort: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = 3600.0
    compare: str = "tolerance"
    then: str = "promote"

    @property
    def full_name(self) -> str:
        """`NAME` for what answers by default, `NAME@LABEL` for the rest."""
        return self.name if self.label == STABLE else f"{self.name}@{self.label}"


@dataclass(frozen=True)
class ModelSettings:
    """One model: what answers by default, and its other labels.

    Args:
        labels: how each is to be served; `stable` is always there.
    """

    name: str
    labels: Mapping[str, Settings]


@dataclass(frozen=True)
class ServerSettings:
    """How a server is to run; `_s` is seconds, `_bytes` bytes."""

    models: tuple[ModelSettings, ...]
    boot_wait_s: float
    max_body_bytes: int
    max_queue: int
    request_timeout_s: float
    client_timeout_s: float
    drain_delay_s: float
    cors_origins: tuple[str, ...]
    balance: str
    access_log: str
    traces: str
    status_page: str
    admin_token_file: Path | None
    bind: str
    worker: str
    workers: int
    threads: int

    @property
    def by_name(self) -> dict[str, Settings]:
        """What is served, by `NAME` for what answers by default and `NAME@LABEL` for the rest."""
        return {label.full_name: label for model in self.models for label in model.labels.values()}

    def find(self, wanted: str | None = None) -> Settings:
        """Find how one model, or one label of it, is to be served.

        Args:
            wanted: `NAME` or `NAME@LABEL`; not needed where there is only one.

        Raises:
            SettingsError: there is no such model, or none was named and there are several.
        """
        known = self.by_name
        if wanted is None and len(known) == 1:
            return next(iter(known.values()))
        if wanted is None or wanted not in known:
            message = f"expected {' or '.join(known)}, found {wanted or 'none'}"
            raise SettingsError([Issue("model", message, "name one with --model")])
        return known[wanted]


def load_settings(
    environ: Mapping[str, str], directory: Path, keys: Mapping[str, object] | None = None
) -> ServerSettings:
    """Read and check all settings.

    Args:
        directory: where the file is looked for, and to which paths in variables are relative.
        keys: of the settings, in the place of a file; paths are relative to `directory`.

    Raises:
        SettingsError: with every issue found in the file and in the variables.
    """
    issues: list[Issue] = []
    file, stated = _read_file(environ, directory, issues) if keys is None else (directory / "keywords", dict(keys))
    models = stated.pop(_MODELS, None)
    variables = Layer.of_environment(environ, directory)
    top = Layer(f"{file.name}: ", stated, file.parent)
    issues += [*top.unknown([field.key for field in FIELDS]), *_unknown_variables(environ)]
    served = parse([variables, top], _OF_SERVER, issues)
    if models is None:
        found = [_parse_sole(variables, top, issues)]
    else:
        found = list(_parse_models(models, variables, top, issues))
    is_fleet = any(label.get("commit") == "fleet" for _, labels in found for label in labels.values())
    if is_fleet and not served.get("fleet", True):
        issues.append(Issue("fleet", 'missing, and commit is "fleet"', "for example etcd:https://HOST:2379/PREFIX"))
    if issues:
        raise SettingsError(list(dict.fromkeys(issues)))  # labels repeat what is wrong with their model
    own = {field.name: served[field.name] for field in fields(ServerSettings) if field.name in served}
    return ServerSettings(models=tuple(_make(name, labels, served) for name, labels in found), **own)  # type: ignore[arg-type]


_Labels = Mapping[str, Mapping[str, object]]


def _make(name: str, labels: _Labels, served: Mapping[str, object]) -> ModelSettings:
    known = {field.name for field in fields(Settings)}
    stated = {label: {**served, **found, "name": name, "label": label} for label, found in labels.items()}
    return ModelSettings(
        name,
        {
            label: Settings(**{key: value for key, value in found.items() if key in known})  # type: ignore[arg-type]
            for label, found in stated.items()
        },
    )


def _parse_sole(variables: Layer, top: Layer, issues: list[Issue]) -> tuple[str, _Labels]:
    found = parse([variables, top], _OF_MODEL, issues)
    return str(found.get("name") or str(found.get("model")).rpartition(":")[2]), {STABLE: found}


def _parse_models(models: object, variables: Layer, top: Layer, issues: list[Issue]) -> Iterator[tuple[str, _Labels]]:
    place = f"{top.place}{_MODELS}"
    # A model at the top is taken over by those that name none; a variable would win over all of them.
    for layer, keys in ((top, {"name", "checkpoints"}), (variables, {"name", "checkpoints", "model"})):
        issues += [
            Issue(layer.name(key), f"expected none beside [{_MODELS}]", f"put it into [{_MODELS}.NAME]")
            for key in sorted(keys & set(layer.stated))
        ]
    store = parse([variables, top], [_STORE], issues).get("store", Path())
    if not isinstance(models, dict) or not models:
        issues.append(Issue(place, f"expected tables [{_MODELS}.NAME], found {models!r}"))
        return
    above = [variables.without(_OWN), top.without(_OWN)]
    for name, table in models.items():
        if not isinstance(table, dict):
            issues.append(Issue(f"{place}.{name}", f"expected a table, found {table!r}"))
            continue
        yield name, _parse_model(name, table, Path(str(store)) / name, above, issues)


def _parse_model(
    name: str, table: Mapping[str, object], store: Path, above: list[Layer], issues: list[Issue]
) -> _Labels:
    """Read `[models.NAME]` and the tables of its labels."""
    variables, top = above
    place = f"{top.place}[{_MODELS}.{name}] "
    try:
        parsers.word(name, top.base)
    except ValueError as error:
        issues.append(Issue(place.strip(), str(error), "a model's name is in URLs and headers"))
    model = Layer(place, table, top.base).without(_OF_LABELS)
    issues += model.unknown([*(field.key for field in _OF_TABLE), "store"])
    found = {STABLE: _parse_label(store, [variables, model, top], _OF_TABLE, issues)}
    for label in (label for label in _OF_LABELS if label in table):
        stated = table[label]
        if not isinstance(stated, dict):
            issues.append(Issue(place + label, f"expected a table, found {stated!r}"))
            continue
        layer = Layer(f"{top.place}[{_MODELS}.{name}.{label}] ", stated, top.base)
        wanted = [*_OF_TABLE, *_OF_LABELS[label]]
        issues += layer.unknown([*(field.key for field in wanted), "store"])
        beside = Path(str(found[STABLE].get("store", store)))
        layers = [variables, layer, model.without(_OWN), top]
        store_of_label = beside.with_name(f"{beside.name}@{label}")
        found[label] = _parse_label(store_of_label, layers, wanted, issues)
    return found


def _parse_label(store: Path, layers: list[Layer], wanted: list[Field], issues: list[Issue]) -> Mapping[str, object]:
    found = parse(layers, wanted, issues)
    has_store = any("store" in layer.stated for layer in layers)
    return {"store": store, **found, **(parse(layers, [_STORE], issues) if has_store else {})}


def _read_file(environ: Mapping[str, str], directory: Path, issues: list[Issue]) -> tuple[Path, dict[str, object]]:
    named = environ.get(CONFIG_VARIABLE)
    path = directory / (named or DEFAULT_FILE)
    if not named and not path.exists():
        return path, {}
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        place = CONFIG_VARIABLE if named else str(path)
        issues.append(Issue(place, f"{path}: {error.strerror}", "name a file that can be read"))
    except ValueError as error:
        issues.append(Issue(str(path), f"not TOML: {error}", "texts need quotes; tables like [model_args] come last"))
    return path, {}


def _unknown_variables(environ: Mapping[str, str]) -> list[Issue]:
    known = {field.variable for field in FIELDS} | {CONFIG_VARIABLE}
    return [
        Issue(name, "unknown variable", parsers.nearest(name, known))
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]


@dataclass(frozen=True)
class Layer:
    """The keys that one table of the file states, or the environment.

    Args:
        base: the directory to which paths are relative.
    """

    place: str
    stated: Mapping[str, object]
    base: Path
    is_environment: bool = False

    @classmethod
    def of_environment(cls, environ: Mapping[str, str], directory: Path) -> Layer:
        """Make the layer of the variables that set a field."""
        stated = {field.key: environ[field.variable] for field in FIELDS if field.variable in environ}
        return cls("", stated, directory, is_environment=True)

    def name(self, key: str) -> str:
        """Return what a message calls a key of this layer."""
        return PREFIX + key.upper() if self.is_environment else self.place + key

    def without(self, keys: Collection[str]) -> Layer:
        """Return this layer without some keys."""
        return replace(self, stated={key: value for key, value in self.stated.items() if key not in keys})

    def unknown(self, known: Collection[str]) -> list[Issue]:
        """List the keys that mean nothing here."""
        servers = {field.key for field in FIELDS if field.scope == SERVER} - set(known)
        once = "the whole server has one of it: put it at the top"
        return [
            Issue(self.name(key), "unknown key", once if key in servers else parsers.nearest(key, known))
            for key in sorted(set(self.stated) - set(known))
        ]


def parse(layers: Iterable[Layer], fields: Iterable[Field], issues: list[Issue]) -> dict[str, object]:
    """Read some fields.

    Args:
        layers: the one that wins comes first.
        issues: what is wrong is added here.

    Returns:
        The values by key, without those that have an issue.
    """
    layers = tuple(layers)
    parsed = {}
    for known in fields:
        layer = next((layer for layer in layers if known.key in layer.stated), None)
        try:
            parsed[known.key] = _parse_one(known, layer, layers[-1].base)
        except ValueError as error:
            place = layer.name(known.key) if layer else layers[-1].name(known.key)
            issues.append(Issue(place, str(error), f"it is {known.help}"))
        except LookupError:
            named = layers[1].name(known.key) if len(layers) > 2 else known.key
            hint = f"set it in the settings file, or as {known.variable}" if len(layers) == 2 else "set it there"
            issues.append(Issue(named, f"missing; it is {known.help}", hint))
    return parsed


def _parse_one(field: Field, layer: Layer | None, base: Path) -> object:
    if layer is not None:
        return field.parse(layer.stated[field.key], layer.base)
    if field.default is REQUIRED:
        raise LookupError(field.key)
    return field.parse(field.default, base)
