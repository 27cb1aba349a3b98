"""The settings: a TOML file, with `SERVE_*` variables over it.

Paths in the file are relative to the file, paths in variables to the working directory. People write settings by hand,
so an unknown key is an error, and all problems are reported at once. A server of several models has a table for each,
`[models.NAME]`; what stands at the top holds for all of them. A canary and a shadow, `[models.NAME.canary]` and
`[models.NAME.shadow]`, watch a place of their own, and take what they do not say from the model's table."""

# ruff: noqa: RUF009 - what `key` returns is a field of a dataclass
from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serve.errors import Issue, SettingsError
from serve.settings import parsers
from serve.settings.parsers import MODEL, PREFIX, REQUIRED, SERVER, Field, Layer, fields_of, key, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "SERVE_CONFIG"
DEFAULT_FILE = "serve.toml"
STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
_MODELS = "models"
# fmt: off
_PROMOTE = Field("promote", parsers.numbers("requests", "errors", "p99_ratio", "agreement"), {},
    "what it takes to become the stable one: answers, the most share of errors and times the p99, the least agreement")
_TIMEOUT = Field("timeout_s", parsers.seconds(1.0), 3600.0, "seconds after which it ends without promote")
_COMPARE = Field("compare", parsers.one_of("tolerance", "exact", "top1"), "tolerance",
    "when two answers agree: within the tolerances of golden requests, exactly, or by the place of the largest number")
_COMPARE_SHARE = Field("compare_share", parsers.share, 0.01,
    "share of a worker's time that comparisons may take; the rest is skipped. More is a verdict sooner and a worse p99")
_OF_LABELS = {
    CANARY: (
        Field("share", parsers.share, 0.1, "which part of the requests it answers: 0.1 is one of ten"),
        _PROMOTE,
        Field("abort", parsers.numbers("errors", "finite", "range", "unhealthy", "slower", "disagreed"), {},
            "by signal, the share of bad answers that is noise; slower: how many times slower a run may be"),
        _TIMEOUT,
        _COMPARE,
        _COMPARE_SHARE,
    ),
    SHADOW: (
        Field("share", parsers.share, 1.0, "which part of the requests it is asked as well: 1 is all"),
        _PROMOTE,
        Field("then", parsers.one_of("hold", "promote", "refuse"), "hold",
            "what follows from the verdict of promote: nothing; it becomes the stable one; one that differs is "
            "refused"),
        _TIMEOUT,
        _COMPARE,
        _COMPARE_SHARE,
    ),
}
# fmt: on
# What tells one model from another is never taken over, neither from the top nor by a label from its model.
_OWN = frozenset({"name", "store", "checkpoints"})


@dataclass(frozen=True)
class Settings:
    """How one model, or one label of it, is to be served; `_s` is seconds."""

    workers: int
    # fmt: off
    model: str = key(parsers.import_name, REQUIRED, "the model class, as module:Class")
    checkpoints: Path = key(parsers.place, REQUIRED,
        "the watched place: one checkpoint that is overwritten, a directory of them, a URL of either (s3://…), or an "
        "alias of MLflow's registry, mlflow:models:/NAME@ALIAS")
    name: str = key(parsers.word, "", "the model's name in answers and logs; default: the class name")
    store: Path = key(parsers.path, ".envserve-store", "directory of the read-only copies, on a local disk")
    model_args: Mapping[str, object] = key(parsers.table, {}, "keyword arguments of the model class")
    example_inputs: object = key(parsers.example, "",
        "inputs as a request has them, for a class that has none: rows, or their form, such as float32[1, 16]; "
        "several by name")
    python_path: tuple[Path, ...] = key(parsers.paths, (),
        "directories in which the model's module is looked for first")
    allowed_pickles: frozenset[str] = key(parsers.sha256_list, (),
        "sha256 of checkpoints that may be unpickled in full")
    format: str = key(parsers.one_of("auto", "safetensors", "torch", "torchscript", "export"), "auto",
        "what checkpoints are; auto: safetensors or torch, by their first bytes")
    pickle: str = key(parsers.one_of("refuse", "weights_only", "trusted"), "weights_only",
        "what may be unpickled: nothing; tensors only, and allowed_pickles in full; also in full what is signed")
    verify_key: tuple[Path, ...] = key(parsers.paths, (),
        "public keys (PEM) of which one must have signed every checkpoint")
    device: str = key(parsers.text, "cpu", "where the model computes: cpu, cuda, cuda:1")
    memory: str = key(parsers.one_of("availability", "preserve", "resource", "unchecked"), "availability",
        "availability: two models for a moment, refused if they would not fit; preserve: the same, and no probation "
        "where a third one would not fit beside them; resource: unload before loading, requests get 503 meanwhile; "
        "unchecked: as availability, without the look at free memory")
    warm_up_sizes: tuple[int, ...] = key(parsers.sizes, (),
        "numbers of rows to warm up with, beside the example's")
    warm_up_timeout_s: float = key(parsers.seconds(0.01), 60.0,
        "seconds that warm-up, golden requests and validate() have")
    changed_interface: str = key(parsers.one_of("refuse", "allow"), "refuse",
        "what becomes of a model whose answer to the example has another form than the served one's")
    stateful: str = key(parsers.one_of("refuse", "allow"), "refuse",
        "what becomes of a model that changes its parameters or buffers while it answers")
    optimize: str = key(parsers.one_of("off", "script", "compile"), "off",
        "script, compile: try TorchScript or torch.compile before each swap, and take it where it answers the same "
        "and was measured to be quicker")
    torch_threads: int = key(parsers.threads, "auto",
        "threads of one torch operation; auto: the cores that the server may use, divided by its workers, or "
        "OMP_NUM_THREADS", scope=SERVER)
    commit: str = key(parsers.one_of("host", "worker", "fleet"), "host",
        "host: all workers move at the same instant; worker: each for itself; fleet: all workers of all hosts")
    fleet: str = key(parsers.fleet, "",
        "with commit = fleet, what the hosts share: etcd:URL,URL/PREFIX, or ray:/DIRECTORY, of the head node",
        scope=SERVER)
    fleet_secrets: Path | None = key(parsers.optional_path, "",
        "directory with what etcd wants to see: ca.pem; client.pem and client.key; user, with NAME:PASSWORD",
        scope=SERVER)
    fleet_host: str = key(parsers.word, "", "this host's name in the fleet; default: the machine's", scope=SERVER)
    fleet_cut_off: str = key(parsers.one_of("wait", "refuse"), "wait",
        "a host that does not reach the fleet: wait: it serves on, and swaps wait for it; refuse: it answers 503 when "
        "its lease is over, and swaps go on without it", scope=SERVER)
    fleet_lease_s: float = key(parsers.seconds(1.0), 2.0,
        "seconds after which a silent host is taken for cut off", scope=SERVER)
    fleet_hold_s: float = key(parsers.seconds(0.0), 5.0,
        "seconds that a request may wait while hosts move, or for X-Model-At-Least, before it gets 503", scope=SERVER)
    fleet_evict_s: float = key(parsers.seconds(0.0), 0.0,
        "with wait, seconds after which a silent host is taken for dead, and swaps go on; 0: never", scope=SERVER)
    commit_timeout_s: float = key(parsers.seconds(0.1), 120.0, "seconds in which every worker must have prepared")
    watch: str = key(parsers.one_of("auto", "inotify", "poll"), "auto",
        "auto: file events where they can be trusted; inotify: wherever there are any; poll: the timer alone")
    unload: str = key(parsers.one_of("refuse", "allow"), "refuse",
        "whether a request may unload a model (Open Inference Protocol V2); whoever reaches the server can send it")
    poll_s: float = key(parsers.seconds(0.01), 1.0, "seconds between two looks at the watched place")
    settle_s: float = key(parsers.seconds(0.01), 0.2, "seconds that a checkpoint with an empty marker must hold still")
    keep: int = key(parsers.whole_number(1), 3, "how many generations the store keeps")
    max_batch_size: int = key(parsers.whole_number(1), 32,
        "most rows that requests share one run with; 1: each runs alone")
    max_batch_delay_ms: int = key(parsers.whole_number(0), 0,
        "milliseconds that a request may wait for others to join it")
    batch_check_share: float = key(parsers.share, 0.01,
        "share of the computing time in which joined requests are answered once more alone, and compared; 0: never")
    probation_s: float = key(parsers.seconds(0.0), 60.0,
        "seconds for which a new generation is watched, and the one before stays loaded: all workers go back to it "
        "where answers get worse; 0: off")
    probation_requests: int = key(parsers.whole_number(0), 0,
        "answers after which a probation ends before its time; 0: by time alone")
    probation_rule: Mapping[str, float] = key(
        parsers.numbers("errors", "finite", "range", "unhealthy", "slower", "false_alarm"), {},
        "by signal, the share of bad answers that is noise (errors, finite, range, unhealthy; 1: not watched), how "
        "many times slower a run may be (slower; 0: not watched), the probability of a false alarm")
    retry_spoiled: str = key(parsers.one_of("finite", "all", "off"), "finite",
        "which answers the generation before makes again during a probation: those that are not finite, all that it "
        "makes well, none")
    drift_share: float = key(parsers.share, 0.01,
        "share of a worker's time in which inputs and answers are sketched for the metrics of drift; 0: never")
    record_share: float = key(parsers.share, 0.0,
        "share of the requests that are kept with their answers in recorded.jsonl in the store; 0: none")
    record_keep: int = key(parsers.whole_number(1), 1000, "how many recorded requests are kept, the newest")
    record_redact: str = key(parsers.optional_text, "",
        "module:function that gets each recorded request, and returns what of it is written, or None")
    record_key: Path | None = key(parsers.optional_path, "",
        "file with a key (32 bytes in URL-safe base64) by which recorded requests are encrypted; needs envserve[sign]")
    event_hook: str = key(parsers.optional_text, "",
        "a command that gets each event on stdin, or a URL that gets it by POST")
    # fmt: on
    label: str = STABLE
    share: float = 1.0
    promote: Mapping[str, float] = field(default_factory=dict)
    abort: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = 3600.0
    compare: str = "tolerance"
    compare_share: float = 0.01
    then: str = "promote"

    @property
    def full_name(self) -> str:
        """`NAME` for what answers by default, `NAME@LABEL` for the rest."""
        return self.name if self.label == STABLE else f"{self.name}@{self.label}"


@dataclass(frozen=True)
class ModelSettings:
    """One model: what answers by default, and its other labels."""

    name: str
    labels: Mapping[str, Settings]  # how each is to be served; `stable` is always there


@dataclass(frozen=True)
class ServerSettings:
    """How a server is to run; `_s` is seconds, `_bytes` bytes."""

    models: tuple[ModelSettings, ...]
    # fmt: off
    boot_wait_s: float = key(parsers.seconds(0.0), 60.0, "seconds to load before requests; more while others answer")
    max_body_bytes: int = key(parsers.whole_number(1), 16 * 1024 * 1024, "longest request body")
    max_queue: int = key(parsers.whole_number(0), 100,
        "how many requests of a model may wait in a worker (with gthread: of all models); more get 503; 0: any number")
    request_timeout_s: float = key(parsers.seconds(0.0), 0.0,
        "seconds after which a prediction that was not begun is turned away with 504, where the client does not state "
        "X-Request-Timeout; 0: never")
    client_timeout_s: float = key(parsers.seconds(0.1), 30.0,
        "seconds in which a client must send its request, and take its answer")
    drain_delay_s: float = key(parsers.seconds(0.0), 0.0,
        "seconds from SIGTERM, when /readyz drops, until nothing new is accepted; behind a load balancer more than it "
        "takes to notice")
    cors_origins: tuple[str, ...] = key(parsers.origins, (),
        "origins of web pages that may read answers; * is every one")
    balance: str = key(parsers.one_of("on", "off"), "off",
        "on: event-loop workers give connections to one that has less to do; for slow models and few connections")
    access_log: str = key(parsers.one_of("off", "on"), "off", "on: one JSON line on stdout for each request")
    traces: str = key(parsers.one_of("off", "otlp"), "off",
        "otlp: report requests as OpenTelemetry spans, by its own OTEL_ variables; needs envserve[otel]")
    status_page: str = key(parsers.one_of("on", "off"), "on", "whether / and /status.json exist")
    admin_token_file: Path | None = key(parsers.token_file, "",
        "file with the token for /admin (rollback, pin, unpin, look); without one it does not exist")
    bind: str = key(parsers.text, "127.0.0.1:8000", "address and port to listen on")
    worker: str = key(parsers.one_of("auto", "asgi", "gthread"), "auto",
        "asgi: an event loop that batches what is ready, needs the extra fast; gthread: a thread for each request; "
        "auto: asgi where the extra is installed")
    workers: int = key(parsers.whole_number(1), 2, "worker processes")
    threads: int = key(parsers.whole_number(1), 8, "request threads of each worker")
    # fmt: on

    @property
    def by_name(self) -> dict[str, Settings]:
        """What is served, by `NAME` for what answers by default and `NAME@LABEL` for the rest."""
        return {label.full_name: label for model in self.models for label in model.labels.values()}

    def find(self, wanted: str | None = None) -> Settings:
        """Find the settings of `NAME` or `NAME@LABEL`, by default of the only model; raises `SettingsError`."""
        known = self.by_name
        if wanted is None and len(known) == 1:
            return next(iter(known.values()))
        if wanted is None or wanted not in known:
            message = f"expected {' or '.join(known)}, found {wanted or 'none'}"
            raise SettingsError([Issue("model", message, "name one with --model")])
        return known[wanted]


FIELDS = (*fields_of(Settings, MODEL), *fields_of(ServerSettings, SERVER))  # of one model, then of the whole server
_OF_SERVER = [known for known in FIELDS if known.scope == SERVER]
_OF_MODEL = [known for known in FIELDS if known.scope == MODEL]
_OF_TABLE = [known for known in _OF_MODEL if known.key not in ("name", "store")]
_STORE = next(known for known in FIELDS if known.key == "store")


def load_settings(
    environ: Mapping[str, str], directory: Path, keys: Mapping[str, object] | None = None
) -> ServerSettings:
    """Read all settings; `keys` come in place of a file in `directory`. Raises `SettingsError` with every issue."""
    issues: list[Issue] = []
    file, stated = read_file(environ, directory, issues) if keys is None else (directory / "keywords", dict(keys))
    models = stated.pop(_MODELS, None)
    set_by_variables = {field.key: environ[field.variable] for field in FIELDS if field.variable in environ}
    variables = Layer("", set_by_variables, directory, is_environment=True)
    top = Layer(f"{file.name}: ", stated, file.parent)
    known = {field.variable for field in FIELDS} | {CONFIG_VARIABLE}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    issues += _unknown(top, FIELDS)
    issues += [Issue(name, "unknown variable", parsers.nearest(name, known)) for name in unknown]
    served = parse([variables, top], _OF_SERVER, issues)
    found: list[tuple[str, _Labels]]
    if models is None:
        sole = parse([variables, top], _OF_MODEL, issues)
        found = [(str(sole.get("name") or str(sole.get("model")).rpartition(":")[2]), {STABLE: sole})]
    else:
        found = list(_parse_models(models, variables, top, issues))
    is_fleet = any(label.get("commit") == "fleet" for _, labels in found for label in labels.values())
    if is_fleet and not served.get("fleet", True):
        issues.append(Issue("fleet", 'missing, and commit is "fleet"', "for example etcd:https://HOST:2379/PREFIX"))
    if issues:
        raise SettingsError(list(dict.fromkeys(issues)))  # labels repeat what is wrong with their model
    own: dict[str, Any] = {field.name: served[field.name] for field in fields(ServerSettings) if field.name in served}
    return ServerSettings(models=tuple(_make(name, labels, served) for name, labels in found), **own)


_Labels = Mapping[str, Mapping[str, object]]


def _make(name: str, labels: _Labels, served: Mapping[str, object]) -> ModelSettings:
    known, made = {field.name for field in fields(Settings)}, {}
    for label, found in labels.items():
        stated: dict[str, Any] = {**served, **found, "name": name, "label": label}
        made[label] = Settings(**{key: stated[key] for key in known & set(stated)})
    return ModelSettings(name, made)


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
    issues += _unknown(model, [*_OF_TABLE, _STORE])
    found = {STABLE: _parse_label(store, [variables, model, top], _OF_TABLE, issues)}
    for label, stated in ((label, table[label]) for label in _OF_LABELS if label in table):
        if not isinstance(stated, dict):
            issues.append(Issue(place + label, f"expected a table, found {stated!r}"))
            continue
        layer = Layer(f"{top.place}[{_MODELS}.{name}.{label}] ", stated, top.base)
        wanted = [*_OF_TABLE, *_OF_LABELS[label]]
        issues += _unknown(layer, [*wanted, _STORE])
        beside = Path(str(found[STABLE].get("store", store)))
        layers = [variables, layer, model.without(_OWN), top]
        store_of_label = beside.with_name(f"{beside.name}@{label}")
        found[label] = _parse_label(store_of_label, layers, wanted, issues)
    return found


def _parse_label(store: Path, layers: list[Layer], wanted: list[Field], issues: list[Issue]) -> Mapping[str, object]:
    found = parse(layers, wanted, issues)
    has_store = any("store" in layer.stated for layer in layers)
    return {"store": store, **found, **(parse(layers, [_STORE], issues) if has_store else {})}


def read_file(environ: Mapping[str, str], directory: Path, issues: list[Issue]) -> tuple[Path, dict[str, object]]:
    """Return the path of the file and its keys; what is wrong with it is added to the issues."""
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


def _unknown(layer: Layer, fields: Iterable[Field]) -> list[Issue]:
    """List the keys of a layer that mean nothing there."""
    known = [field.key for field in fields]
    servers = {field.key for field in _OF_SERVER} - set(known)
    once = "the whole server has one of it: put it at the top"
    return [
        Issue(layer.name(key), "unknown key", once if key in servers else parsers.nearest(key, known))
        for key in sorted(set(layer.stated) - set(known))
    ]
