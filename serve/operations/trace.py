"""The chain from an answer to the bytes that made it, a signed statement of its middle, and a bill of materials.

No network is used: what is at hand is the answer, the ledger, the checkpoint, signed statements and the lock. The same
ledger and environment give the same bill. Source: CycloneDX 1.7, `machine-learning-model`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve import durable_files
from serve.checkpoint import dsse
from serve.checkpoint.manifest import manifest_of, publisher_of
from serve.checkpoint.signature import Verifier, load_key
from serve.errors import CheckpointError, LedgerError, OperationError
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger

VERIFIED, FAILED, UNKNOWN = "verified", "failed", "unknown"
CHECKPOINT, ENVIRONMENT = "urn:envserve:checkpoint:1", "urn:envserve:environment:1"
PROVENANCE = "https://slsa.dev/provenance/v1"
_HEADERS = {
    "x-model-generation": "generation", "x-model-sha256": "sha256", "x-model-version": "version",
    "x-model-name": "model", "x-env-digest": "env_digest",
}  # fmt: skip
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Link:
    """One link of the chain."""

    name: str
    verdict: str  # VERIFIED, FAILED, or UNKNOWN where nothing at hand can tell
    detail: str


@dataclass(frozen=True)
class Evidence:
    """What is at hand."""

    store: Path | None = None
    keys: Sequence[Path] = ()  # public keys that are trusted
    statements: Sequence[Path] = ()  # files of DSSE envelopes
    lock: Path | None = None
    checkpoint: Path | None = None  # its file, where it is not in the store
    bill: Path | None = None  # the bill of materials that `bill_of_materials` made


def read_answer(text: str, request: str | None = None) -> dict[str, str]:
    """Read an answer's origin from its head, or from the line of an access log by an id; raises `OperationError`."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if line.startswith("{") and request and request in line:
            with contextlib.suppress(ValueError, RecursionError):  # a line that was cut off, or altered
                logged = json.loads(line)
                if request in (logged.get("trace_id"), logged.get("span_id")):
                    found = {key: str(logged[key]) for key in _HEADERS.values() if key in logged}
        elif ":" in line:
            name, _, value = line.partition(":")
            if name.strip().lower() in _HEADERS:
                found[_HEADERS[name.strip().lower()]] = value.strip()
    if "sha256" not in found:
        raise OperationError("the answer: expected the header X-Model-SHA256, found none", hint="curl -D head …")
    return found


def attest(entry: Entry, env_digest: str | None, key_file: Path) -> dict[str, Any]:
    """Return a signed statement that a checkpoint passed every gate and was committed; raises `SignatureError`."""
    manifest = manifest_of(entry.marker)
    predicate = {
        "entry": _facts_of(entry), "environment": env_digest, "publisher": publisher_of(manifest),
        "gates": {"golden": len(manifest.golden), "interface": dict(manifest.interface)},
        "metrics": dict(manifest.metrics), "tool": {"name": "serve", "version": version("envserve")},
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
    stated = dsse.statement(CHECKPOINT, {entry.name: entry.sha256}, predicate)
    return dsse.seal(stated, load_key(key_file, is_private=True, takes_ecdsa=True))


def trace(answer: Mapping[str, str], evidence: Evidence) -> list[Link]:
    """Follow an answer back; every link is looked at, whatever the others are; bad keys raise `SignatureError`."""
    keys = [load_key(path, is_private=False, takes_ecdsa=True) for path in evidence.keys]
    entry, generation = _generation(answer, evidence.store)
    opened = [_open(path, keys) for path in evidence.statements]
    broken = [one for one in opened if isinstance(one, Link)]
    stated = [one for one in opened if not isinstance(one, Link)]
    return [
        _answer(answer),
        generation,
        _checkpoint(answer, evidence),
        _signature(answer, entry, evidence.keys),
        *broken,
        *_of_known_form("gates", _statement(answer, entry, stated)),
        *_of_known_form("environment", _environment(answer, stated, evidence.lock)),
        *([_bill(answer, evidence.bill)] if evidence.bill else []),
    ]


def _judge(name: str, holds: bool, detail: str) -> Link:
    return Link(name, VERIFIED if holds else FAILED, detail)


def _answer(answer: Mapping[str, str]) -> Link:
    if lacking := sorted(_HEADERS.values() - answer.keys()):
        return Link("answer", UNKNOWN, f"it does not state {', '.join(lacking)}")
    about = f"{answer['model']} {answer['version']}, sha256 {answer['sha256']}"
    return _judge("answer", _SHA256.fullmatch(answer["sha256"]) is not None, about)


def _generation(answer: Mapping[str, str], store: Path | None) -> tuple[Entry | None, Link]:
    try:
        entries = Ledger(Store(store)).read() if store is not None and store.is_dir() else []
    except (LedgerError, OSError) as error:
        return None, Link("generation", FAILED, str(error))
    entry = next((entry for entry in entries if str(entry.generation) == answer.get("generation")), None)
    if entry is None:
        return None, Link("generation", UNKNOWN, f"no ledger has generation {answer.get('generation')}")
    found = {"sha256": entry.sha256, "version": entry.version}
    others = [key for key in found if answer.get(key, found[key]) != found[key]]
    differing = [f"{key}: expected {answer[key]}, found {found[key]}" for key in others]
    about = "; ".join(differing) or f"{entry.generation}, committed {entry.committed}"
    return entry, _judge("generation", not differing, about)


def _checkpoint(answer: Mapping[str, str], evidence: Evidence) -> Link:
    path = evidence.checkpoint
    if path is None and evidence.store is not None and _SHA256.fullmatch(answer["sha256"]):
        path = Store(evidence.store).proven / answer["sha256"]
        path = path if path.is_file() else None
    if path is None:
        return Link("checkpoint", UNKNOWN, "its bytes are not at hand")
    return _file("checkpoint", path, answer["sha256"])


def _file(name: str, path: Path, wanted: str) -> Link:
    try:
        found = durable_files.hash_file(path)
    except OSError as error:
        return Link(name, FAILED, f"{path}: {error.strerror}")
    return _judge(name, found == wanted, f"{path}: sha256 {found}")


def _signature(answer: Mapping[str, str], entry: Entry | None, keys: Sequence[Path]) -> Link:
    if entry is None:
        return Link("publisher", UNKNOWN, "no ledger has the marker")
    manifest = manifest_of(entry.marker)
    publisher = publisher_of(manifest)
    if publisher is None or not keys:
        return Link("publisher", UNKNOWN, f"signed by {publisher}; name its key" if publisher else "not signed")
    try:
        Verifier(keys).require(manifest.stated)
    except CheckpointError as error:
        return Link("publisher", FAILED, error.message)
    is_same = manifest.sha256 == answer["sha256"]
    return _judge("publisher", is_same, f"signed by {publisher}: sha256 {manifest.sha256}")


def _open(path: Path, keys: Sequence[Any]) -> dict[str, Any] | Link:
    try:
        return {**dsse.unseal(json.loads(path.read_bytes()), keys), "file": path.name}
    except (OSError, ValueError, RecursionError) as error:
        if keys or isinstance(error, OSError):
            return Link("statement", FAILED, f"{path.name}: {error}")
        return Link("statement", UNKNOWN, f"{path.name}: name its key")


def _about(stated: Sequence[Mapping[str, Any]], kind: str, sha256: str | None) -> Iterator[Mapping[str, Any]]:
    for statement in stated:
        # In this order: what a statement of another kind is about need not have a digest.
        of_kind = statement["subject"] if statement["predicateType"] == kind else ()
        if any(one["digest"].get("sha256") == sha256 for one in of_kind):
            yield statement


def _facts_of(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "marker": hashlib.sha256(entry.marker.encode()).hexdigest()}


def _of_known_form(name: str, links: Iterator[Link]) -> Iterator[Link]:
    try:
        yield from links
    except (KeyError, TypeError, AttributeError) as error:
        yield Link(name, FAILED, f"a signed statement is of another form than expected: {error!r}")


def _statement(answer: Mapping[str, str], entry: Entry | None, stated: Sequence[Mapping[str, Any]]) -> Iterator[Link]:
    for statement in _about(stated, CHECKPOINT, answer["sha256"]):
        predicate = statement["predicate"]
        if str(predicate["entry"]["generation"]) != answer.get("generation"):
            continue
        if entry is not None and predicate["entry"] != _facts_of(entry):
            yield Link("gates", FAILED, f"{statement['file']}: the ledger has another entry than was attested")
        else:
            yield Link("gates", VERIFIED, f"{statement['file']}: committed in environment {predicate['environment']}")
        return
    yield Link("gates", UNKNOWN, "no statement is about this generation; serve attest writes one")


def _environment(answer: Mapping[str, str], stated: Sequence[Mapping[str, Any]], lock: Path | None) -> Iterator[Link]:
    digest = answer.get("env_digest")
    statement = next(_about(stated, ENVIRONMENT, digest), None)
    if statement is None:
        yield Link("environment", UNKNOWN, f"env digest {digest}; envtool verify --attest writes a statement")
        return
    predicate, is_equal = statement["predicate"], statement["predicate"]["verdict"].get("is_equal") is True
    yield _judge("environment", is_equal, f"{statement['file']}: env digest {digest}")
    wanted, packages, text = str(predicate["lock"]["sha256"]), predicate["packages"], None
    if lock is None:
        yield Link("lock", UNKNOWN, f"{predicate['lock']['name']} of sha256 {wanted} is not at hand")
    else:
        yield _file("lock", lock, wanted)
        with contextlib.suppress(OSError):  # the link above tells it
            text = lock.read_text(errors="replace")
    lost = [one["name"] for one in packages if text is not None and str(one["sha256"]) not in text]
    sources = sorted({str(one["url"]).rsplit("/", 2 if one["manager"] == "conda" else 1)[0] for one in packages})
    detail = f"not in the lock: {', '.join(lost)}" if lost else f"{len(packages)} packages of {', '.join(sources[:5])}"
    yield _judge("packages", not lost, detail)
    made = next(_about(stated, PROVENANCE, wanted), None)
    if made is not None:
        inputs = [one["uri"] for one in made["predicate"]["buildDefinition"]["resolvedDependencies"]]
        yield Link("provenance", VERIFIED, f"{made['file']}: from {', '.join(inputs)}")


def _bill(answer: Mapping[str, str], path: Path) -> Link:
    try:
        bill = json.loads(path.read_bytes())
        has_model = f"model:{answer['sha256']}" in [component.get("bom-ref") for component in bill["components"]]
        is_whole = bill.pop("serialNumber") == _serial_number(bill)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Not its repr, which has the whole file where that is not UTF-8.
        what = f"{type(error).__name__}: {error}"
        return Link("bill", FAILED, f"{path}: expected a bill of materials of serve bom ({what})")
    detail = f"{path}: {len(bill['components'])} components" if has_model else f"{path}: of another model"
    return _judge("bill", has_model and is_whole, detail if is_whole else f"{path}: altered after it was made")


def _serial_number(bill: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).hexdigest()
    return f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"


def bill_of_materials(entry: Entry, env_digest: str | None, environment: bytes | None, specification: str) -> str:
    """Return the bill of materials of one generation, as JSON of that version of CycloneDX. The components of
    `environment`, which `envtool export cyclonedx` wrote, are added; raises `OperationError`."""
    manifest = manifest_of(entry.marker)
    facts = {
        "generation": entry.generation, "committed": entry.committed, "format": manifest.format,
        "publisher": publisher_of(manifest), "golden_requests": len(manifest.golden), "env_digest": env_digest,
        **{f"marker:{name}": json.dumps(value, sort_keys=True) for name, value in manifest.rest.items()},
    }  # fmt: skip
    model = {
        "type": "machine-learning-model", "bom-ref": f"model:{entry.sha256}", "name": entry.name,
        "version": entry.version, "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        "modelCard": {
            "modelParameters": {side: [{"format": form}] for side, form in manifest.interface.items()},
            "quantitativeAnalysis": {
                "performanceMetrics": [{"type": name, "value": str(value)} for name, value in manifest.metrics.items()]
            },
        },
        "properties": [
            {"name": f"serve:{name}", "value": str(value)} for name, value in facts.items() if value is not None
        ],
    }  # fmt: skip
    try:
        inside: Mapping[str, Any] = json.loads(environment) if environment else {}
        root = inside.get("metadata", {}).get("component")
        components = [model, *([root] if root else []), *inside.get("components", ())]
        refs = [component.get("bom-ref") for component in components]  # those of others need not have one
        dependencies = [*inside.get("dependencies", ())]
        json.dumps([components, dependencies], indent=2)  # as deep as it is written below
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise OperationError(f"the environment: expected CycloneDX JSON ({error})") from error
    needs = {"ref": "service", "dependsOn": [ref for ref in refs[: 2 if root else 1] if ref]}
    tool = {"type": "application", "name": "serve", "version": version("envserve")}
    bom: dict[str, Any] = {
        "bomFormat": "CycloneDX", "specVersion": specification, "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "service", "name": "serve"},
                     "tools": {"components": [tool]}},
        "components": components, "dependencies": [needs, *dependencies],
    }  # fmt: skip
    bom["serialNumber"] = _serial_number(bom)
    return json.dumps(bom, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
