"""A plugin of Ray's `runtime_env`: a lock and an env digest make the interpreter of an actor or a task.

    export RAY_RUNTIME_ENV_PLUGINS='[{"class": "envtool.ray_plugin.LockPlugin"}]'    # before `ray start`, on every node
    runtime_env={"envserve": {"lock": "/etc/envserve/conda-lock.yml", "digest": "2bfe38…"}}

Nothing starts in an environment with another digest, or whose Ray or Python is not the node's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray._private.runtime_env.plugin import RuntimeEnvPlugin

from envtool import subprocesses
from envtool.errors import MissingFileError, PrefixError
from envtool.fetch.archive_cache import sha256_of
from envtool.prefix.prefix import ENV_DIGEST_VARIABLE, State, find_prefix

_TELL = "import ray, sys; print('Ray', ray.__version__, ray.__commit__, 'Python %d.%d' % sys.version_info[:2])"
_NAME_CHARACTERS = 16


class LockPlugin(RuntimeEnvPlugin):  # type: ignore[misc]
    """What Ray loads into the agent of each node; its methods are those of Ray's class."""

    name = "envserve"

    def __init__(self) -> None:
        self._prefixes: dict[str, str] = {}

    @staticmethod
    def validate(runtime_env: Mapping[str, Any]) -> None:
        """Raise ValueError where the keys are not `lock` and `digest`, which `envtool digest` prints."""
        stated = runtime_env[LockPlugin.name]
        if not isinstance(stated, Mapping) or set(stated) != {"lock", "digest"}:
            raise ValueError(f"runtime_env: envserve: expected the keys lock and digest, found {stated!r}")
        if {*map(type, stated.values())} != {str} or not re.fullmatch("[0-9a-f]{64}", stated["digest"]):
            raise ValueError(f"runtime_env: envserve: expected a path and 64 hexadecimal digits, found {stated!r}")

    def get_uris(self, runtime_env: Mapping[str, Any]) -> list[str]:
        """Name what is to be made; Ray makes it once for each name, and asks for every `runtime_env`, valid or not."""
        stated = runtime_env.get(self.name)
        return [] if stated is None else [f"{self.name}://{stated!r}"]

    async def create(self, uri: str, runtime_env: Mapping[str, Any], context: Any, logger: Any) -> int:
        """Make the environment, or find it. Raises EnvtoolError, and nothing starts."""
        self.validate(runtime_env)
        stated = runtime_env[self.name]
        made = asyncio.get_running_loop().run_in_executor(None, _make, stated["lock"], stated["digest"])
        self._prefixes[uri] = await made
        return 0

    def modify_context(self, uris: Sequence[str], runtime_env: Mapping[str, Any], context: Any, logger: Any) -> None:
        """Start whatever has this `runtime_env` by the environment's Python."""
        programs = f"{self._prefixes[uris[0]]}/bin"
        context.py_executable = f"{programs}/python"
        context.env_vars[ENV_DIGEST_VARIABLE] = runtime_env[self.name]["digest"]
        context.env_vars["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"


def _make(lock: str, digest: str) -> str:
    """Make an environment, and return its prefix: one for each content of a lock, which is never changed once made, as
    something may run in it."""
    try:
        name = f"ray-{sha256_of(Path(lock))[:_NAME_CHARACTERS]}"
    except OSError as error:
        raise MissingFileError(f"{lock} cannot be read: {error.strerror}") from error
    envtool, named = [sys.executable, "-m", "envtool"], ["-n", name, "-f", lock, "--json"]
    is_made = find_prefix(name, None).state() is State.WHOLE
    # Where it is made, the policy alone is asked.
    subprocesses.run([*envtool, "create", *named, *(["--dry-run"] if is_made else [])])
    made = json.loads(subprocesses.run([*envtool, "digest", *named]))
    prefix, found = str(made["prefix"]), made["env_digest"]
    if found != digest:
        message = f"{lock}: expected an environment with the digest {digest}, found {found}"
        raise PrefixError(message, f"where the lock is right: envtool remove -n {name}")
    expected, found = (
        subprocesses.run([python, "-c", _TELL]).strip() for python in (sys.executable, f"{prefix}/bin/python")
    )
    if found != expected:
        raise PrefixError(f"{lock}: expected what this node has, {expected}, found {found}")
    return prefix
