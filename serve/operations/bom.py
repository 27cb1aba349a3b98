"""A CycloneDX bill of materials of what a server serves: the model, its proof, and its environment.

The same ledger and the same environment give the same bytes. Source: CycloneDX 1.7, `machine-learning-model`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from serve.checkpoint.manifest import manifest_of, publisher_of
from serve.errors import OperationError
from serve.store.ledger import Entry


def bill_of_materials(entry: Entry, env_digest: str | None, environment: bytes | None, specification: str) -> str:
    """Return the bill of materials of one generation, as JSON of that version of CycloneDX.

    The components of `environment`, which `envtool export cyclonedx` wrote, are added; raises `OperationError`.
    """
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
    except (ValueError, AttributeError) as error:
        raise OperationError(f"the environment: expected CycloneDX JSON ({error})") from error
    needs = {"ref": "service", "dependsOn": [component["bom-ref"] for component in components[: 2 if root else 1]]}
    tool = {"type": "application", "name": "serve", "version": version("envserve")}
    bom: dict[str, Any] = {
        "bomFormat": "CycloneDX", "specVersion": specification, "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "service", "name": "serve"},
                     "tools": {"components": [tool]}},
        "components": components, "dependencies": [needs, *inside.get("dependencies", ())],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"
    return json.dumps(bom, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
