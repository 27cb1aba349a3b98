"""The keys of the settings: how each is read, what it means, its default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from serve.settings import parsers

PREFIX = "SERVE_"
MODEL, SERVER = "model", "server"
REQUIRED = object()


@dataclass(frozen=True)
class Field:
    """One key of the settings.

    Args:
        parse: turns a value of the file, or the text of a variable, into the setting.
        default: in the form of the file.
        scope: whether each model may have its own (`model`), or the process has one (`server`).
    """

    key: str
    parse: Callable[[object, Path], Any]
    help: str
    default: object = REQUIRED
    scope: str = MODEL

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.key.upper()

    def default_as_json(self) -> dict[str, object]:
        """Return the default under the key `default`; nothing where a value is required."""
        return {} if self.default is REQUIRED else {"default": self.default}


FIELDS = (
    Field("model", parsers.import_name, "the model class, as module:Class"),
    Field(
        "checkpoints",
        parsers.place,
        "the watched place: one checkpoint that is overwritten, a directory of them, a URL of either (s3://…), or an "
        "alias of MLflow's registry, mlflow:models:/NAME@ALIAS",
    ),
    Field("name", parsers.word, "the model's name in answers and logs; default: the class name", ""),
    Field("store", parsers.path, "directory of the read-only copies, on a local disk", ".envserve-store"),
    Field("model_args", parsers.table, "keyword arguments of the model class", {}),
    Field(
        "example_inputs",
        parsers.example,
        "inputs as a request has them, for a class that has none: rows, or their form, such as float32[1, 16]; several "
        "by name",
        "",
    ),
    Field("python_path", parsers.paths, "directories in which the model's module is looked for first", ()),
    Field("allowed_pickles", parsers.sha256_list, "sha256 of checkpoints that may be unpickled in full", ()),
    Field(
        "format",
        parsers.one_of("auto", "safetensors", "torch", "torchscript", "export"),
        "what checkpoints are; auto: safetensors or torch, by their first bytes",
        "auto",
    ),
    Field(
        "pickle",
        parsers.one_of("refuse", "weights_only", "trusted"),
        "what may be unpickled: nothing; tensors only, and allowed_pickles in full; also in full what is signed",
        "weights_only",
    ),
    Field("verify_key", parsers.paths, "public keys (PEM) of which one must have signed every checkpoint", ()),
    Field("device", parsers.text, "where the model computes: cpu, cuda, cuda:1", "cpu"),
    Field(
        "memory",
        parsers.one_of("availability", "resource", "unchecked"),
        "availability: two models for a moment, refused if they would not fit; resource: unload before loading, "
        "requests get 503 meanwhile; unchecked: as availability, without the look at free memory",
        "availability",
    ),
    Field("warm_up_sizes", parsers.whole_numbers(1), "numbers of rows to warm up with, beside the example's", ()),
    Field(
        "warm_up_timeout_s", parsers.seconds(0.01), "seconds that warm-up, golden requests and validate() have", 60.0
    ),
    Field(
        "changed_interface",
        parsers.one_of("refuse", "allow"),
        "what becomes of a model whose answer to the example has another form than the served one's",
        "refuse",
    ),
    Field(
        "stateful",
        parsers.one_of("refuse", "allow"),
        "what becomes of a model that changes its parameters or buffers while it answers",
        "refuse",
    ),
    Field(
        "optimize",
        parsers.one_of("off", "script", "compile"),
        "script, compile: try TorchScript or torch.compile before each swap, and take it where it answers the same and "
        "was measured to be quicker",
        "off",
    ),
    Field(
        "torch_threads",
        parsers.number_or_auto(1),
        "threads of one torch operation; auto: the cores that the server may use, divided by its workers, or "
        "OMP_NUM_THREADS",
        "auto",
        SERVER,
    ),
    Field(
        "commit",
        parsers.one_of("host", "worker", "fleet"),
        "host: all workers move at the same instant; worker: each for itself; fleet: all workers of all hosts",
        "host",
    ),
    Field(
        "fleet",
        parsers.fleet,
        "with commit = fleet, what the hosts share: etcd:URL,URL/PREFIX",
        "",
        SERVER,
    ),
    Field(
        "fleet_secrets",
        parsers.optional_path,
        "directory with what etcd wants to see: ca.pem; client.pem and client.key; user, with NAME:PASSWORD",
        "",
        SERVER,
    ),
    Field("fleet_host", parsers.word, "this host's name in the fleet; default: the machine's", "", SERVER),
    Field(
        "fleet_cut_off",
        parsers.one_of("wait", "refuse"),
        "a host that does not reach the fleet: wait: it serves on, and swaps wait for it; refuse: it answers 503 when "
        "its lease is over, and swaps go on without it",
        "wait",
        SERVER,
    ),
    Field("fleet_lease_s", parsers.seconds(1.0), "seconds after which a silent host is taken for cut off", 2.0, SERVER),
    Field(
        "fleet_hold_s",
        parsers.seconds(0.0),
        "seconds that a request may wait while hosts move, or for X-Model-At-Least, before it gets 503",
        5.0,
        SERVER,
    ),
    Field(
        "fleet_evict_s",
        parsers.seconds(0.0),
        "with wait, seconds after which a silent host is taken for dead, and swaps go on; 0: never",
        0.0,
        SERVER,
    ),
    Field("commit_timeout_s", parsers.seconds(0.1), "seconds in which every worker must have prepared", 120.0),
    Field(
        "watch",
        parsers.one_of("auto", "inotify", "poll"),
        "auto: file events where they can be trusted; inotify: wherever there are any; poll: the timer alone",
        "auto",
    ),
    Field(
        "unload",
        parsers.one_of("refuse", "allow"),
        "whether a request may unload a model (Open Inference Protocol V2); whoever reaches the server can send it",
        "refuse",
    ),
    Field("poll_s", parsers.seconds(0.01), "seconds between two looks at the watched place", 1.0),
    Field("settle_s", parsers.seconds(0.01), "seconds that a checkpoint with an empty marker must hold still", 0.2),
    Field("keep", parsers.whole_number(1), "how many generations the store keeps", 3),
    Field(
        "max_batch_size", parsers.whole_number(1), "most rows that requests share one run with; 1: each runs alone", 32
    ),
    Field(
        "max_batch_delay_ms", parsers.whole_number(0), "milliseconds that a request may wait for others to join it", 0
    ),
    Field(
        "batch_check_share",
        parsers.share,
        "share of the computing time in which joined requests are answered once more alone, and compared; 0: never",
        0.01,
    ),
    Field(
        "probation_s",
        parsers.seconds(0.0),
        "seconds for which a new generation is watched, and the one before stays loaded: all workers go back to it "
        "where answers get worse; 0: off",
        60.0,
    ),
    Field(
        "probation_requests",
        parsers.whole_number(0),
        "answers after which a probation ends before its time; 0: by time alone",
        0,
    ),
    Field(
        "probation_rule",
        parsers.numbers("errors", "finite", "range", "unhealthy", "slower", "false_alarm"),
        "by signal, the share of bad answers that is noise (errors, finite, range, unhealthy; 1: not watched), how "
        "many times slower a run may be (slower; 0: not watched), the probability of a false alarm",
        {},
    ),
    Field(
        "retry_spoiled",
        parsers.one_of("finite", "all", "off"),
        "which answers the generation before makes again during a probation: those that are not finite, all that it "
        "makes well, none",
        "finite",
    ),
    Field("boot_wait_s", parsers.seconds(0.0), "seconds a new worker may load before it takes requests", 60.0, SERVER),
    Field("max_body_bytes", parsers.whole_number(1), "longest request body", 16 * 1024 * 1024, SERVER),
    Field(
        "event_hook",
        parsers.optional_text,
        "a command that gets each event on stdin, or a URL that gets it by POST",
        "",
    ),
    Field(
        "max_queue",
        parsers.whole_number(0),
        "how many requests of a model may wait in a worker (with gthread: of all models); more get 503; 0: any number",
        100,
        SERVER,
    ),
    Field(
        "request_timeout_s",
        parsers.seconds(0.0),
        "seconds after which a prediction that was not begun is turned away with 504, where the client does not state "
        "X-Request-Timeout; 0: never",
        0.0,
        SERVER,
    ),
    Field(
        "client_timeout_s",
        parsers.seconds(0.1),
        "seconds in which a client must send its request, and take its answer",
        30.0,
        SERVER,
    ),
    Field(
        "drain_delay_s",
        parsers.seconds(0.0),
        "seconds from SIGTERM, when /readyz drops, until nothing new is accepted; behind a load balancer more than it "
        "takes to notice",
        0.0,
        SERVER,
    ),
    Field("cors_origins", parsers.origins, "origins of web pages that may read answers; * is every one", (), SERVER),
    Field(
        "balance",
        parsers.one_of("on", "off"),
        "on: event-loop workers give connections to one that has less to do; for slow models and few connections",
        "off",
        SERVER,
    ),
    Field("access_log", parsers.one_of("off", "on"), "on: one JSON line on stdout for each request", "off", SERVER),
    Field(
        "traces",
        parsers.one_of("off", "otlp"),
        "otlp: report requests as OpenTelemetry spans, by its own OTEL_ variables; needs envserve[otel]",
        "off",
        SERVER,
    ),
    Field("status_page", parsers.one_of("on", "off"), "whether / and /status.json exist", "on", SERVER),
    Field(
        "admin_token_file",
        parsers.token_file,
        "file with the token for /admin (rollback, pin, unpin, look); without one it does not exist",
        "",
        SERVER,
    ),
    Field("bind", parsers.text, "address and port to listen on", "127.0.0.1:8000", SERVER),
    Field(
        "worker",
        parsers.one_of("auto", "asgi", "gthread"),
        "asgi: an event loop that batches what is ready, needs the extra fast; gthread: a thread for each request; "
        "auto: asgi where the extra is installed",
        "auto",
        SERVER,
    ),
    Field("workers", parsers.whole_number(1), "worker processes", 2, SERVER),
    Field("threads", parsers.whole_number(1), "request threads of each worker", 8, SERVER),
)
