"""Signed statements of what envtool did, in-toto's in a DSSE envelope: that an environment was verified (the subject is
the env digest), and what a lock was made from (its sha256, with SLSA provenance 1.0)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from envtool.atomic_files import write_atomically
from envtool.fetch.archive_cache import sha256_of
from envtool.fetch.credentials import strip
from envtool.lockfile.model import LockedPackage
from envtool.signing import dsse
from envtool.signing.trust import load_key

ENVIRONMENT, PROVENANCE = "urn:envserve:environment:1", "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "urn:envserve:lock:1"


def environment(
    env_digest: str, lockfile: Path, packages: Sequence[LockedPackage], verdict: Mapping[str, Any]
) -> dict[str, Any]:
    """A statement that an environment was compared with a lock."""
    listed = [
        {"manager": package.manager, "name": package.name, "version": package.version, "url": strip(package.url),
         "sha256": package.sha256}
        for package in packages
    ]  # fmt: skip
    machine = {"system": platform.system(), "machine": platform.machine(), "libc": "-".join(platform.libc_ver())}
    tool = {"name": "envtool", "version": version("envserve")}
    lock = {"name": lockfile.name, "sha256": sha256_of(lockfile)}
    predicate = {"verdict": dict(verdict), "lock": lock, "packages": listed, "machine": machine, "tool": tool}
    return dsse.statement(ENVIRONMENT, {"environment": env_digest}, {**predicate, "time": _now()})


def provenance(lockfile: Path, sources: Sequence[Path], options: Mapping[str, str]) -> dict[str, Any]:
    """A statement of what a lock was made from, and where, as far as the CI server tells."""
    variables = os.environ
    builder, run = "urn:envserve:envtool", variables.get("CI_JOB_URL") or variables.get("BUILD_URL")
    inputs: list[dict[str, Any]] = [{"uri": source.name, "digest": {"sha256": sha256_of(source)}} for source in sources]
    if variables.get("GITHUB_ACTIONS") == "true":
        repository = f"{variables.get('GITHUB_SERVER_URL')}/{variables.get('GITHUB_REPOSITORY')}"
        builder, run = f"{repository}/actions", f"{repository}/actions/runs/{variables.get('GITHUB_RUN_ID')}"
        inputs.append({"uri": f"git+{repository}", "digest": {"gitCommit": variables.get("GITHUB_SHA", "")}})
    definition = {
        "buildType": _BUILD_TYPE,
        "externalParameters": {"sources": [each.name for each in sources], "options": dict(options)},
        "resolvedDependencies": inputs,
    }
    metadata = {"finishedOn": _now(), **({"invocationId": run} if run else {})}
    details = {"builder": {"id": builder, "version": {"envtool": version("envserve")}}, "metadata": metadata}
    subject = {lockfile.name: sha256_of(lockfile)}
    return dsse.statement(PROVENANCE, subject, {"buildDefinition": definition, "runDetails": details})


def write(path: Path, stated: Mapping[str, Any], key_file: Path) -> None:
    """Sign a statement and write its envelope. Raises SignatureError if the key cannot be used."""
    key = load_key(key_file, is_private=True, takes_ecdsa=True)
    write_atomically(path, json.dumps(dsse.seal(stated, key)) + "\n")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
