"""The origin of an answer: which model, which bytes, which environment."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ENV_DIGEST_VARIABLE = "ENVSERVE_ENV_DIGEST"
START_VARIABLE = "ENVSERVE_START"  # names one start of the server; `serve.gunicorn_conf` sets it in the master
UNKNOWN = "unknown"  # said in the header where no digest is known, which every answer has; in JSON it is null
WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,127}")  # of headers and files, so plain words
_DIGEST = re.compile(r"[0-9A-Za-z][0-9A-Za-z:._+-]{0,199}")


@dataclass(frozen=True)
class Provenance:
    """What every prediction carries."""

    name: str
    version: str
    generation: int  # the number of the commit that made it live; it only rises
    sha256: str
    env_digest: str | None  # of the environment that computed the answer, where it is known
    label: str = "stable"  # under which it is served: `stable`, or `canary` for a part of the requests

    def as_json(self) -> dict[str, object]:
        """Return the facts as they are in a JSON answer."""
        # Not asdict, which copies each value deeply; every answer has this.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @functools.cached_property
    def json_text(self) -> bytes:
        """The same as JSON, which most answers carry."""
        return json.dumps(self.as_json(), separators=(",", ":")).encode()

    @functools.cached_property
    def parameters(self) -> Mapping[str, object]:
        """The facts as `parameters` of the Open Inference Protocol have them: texts and numbers only."""
        return {
            "model_generation": self.generation, "model_sha256": self.sha256, "model_label": self.label,
            "env_digest": self.env_digest or UNKNOWN,
        }  # fmt: skip

    @functools.cached_property
    def headers(self) -> Mapping[str, str]:
        """The facts as response headers."""
        return {
            "X-Model-Name": self.name, "X-Model-Version": self.version, "X-Model-Generation": str(self.generation),
            "X-Model-SHA256": self.sha256, "X-Model-Label": self.label, "X-Env-Digest": self.env_digest or UNKNOWN,
        }  # fmt: skip


def read_env_digest(environ: Mapping[str, str], prefix: Path) -> str | None:
    """Find the running environment's digest: in `ENVSERVE_ENV_DIGEST`, else in its prefix; `None` for neither."""
    digest: object = environ.get(ENV_DIGEST_VARIABLE)
    if digest is None:
        try:
            record = json.loads((prefix / "conda-meta" / "envserve").read_bytes())
        except (OSError, ValueError):
            return None
        digest = record.get("env_digest") if isinstance(record, dict) else None
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


@functools.lru_cache(maxsize=1)
def version() -> str:
    """Return the version of the installed distribution."""
    import importlib.metadata  # it takes longer than all that `serve status` reads

    try:
        return importlib.metadata.version("envserve")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was never installed
