"""Schemathesis on our own OpenAPI file: whatever it thinks of, the answers are as the file says, and never a 5xx."""

from __future__ import annotations

import subprocess

import pytest
from environments import SCHEMATHESIS

from tests.support.environments import make_environment

# Not our pages, metrics and orders, whose forms the file does not tell.
PATHS = r"^/(v1|v2|predict|predictions|models?|ping|livez|readyz)(/|$)"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


# Without these nearly every path would name a model that is not served.
KNOWN = """
[parameters]
"path.name" = "affine"
"path.version" = "1"
"path.label" = "stable"
"""


@pytest.mark.parametrize("server", ["gthread"], indirect=True)
def test_schemathesis(server, tmp_path):
    python = make_environment(SCHEMATHESIS)
    (tmp_path / "schemathesis.toml").write_text(KNOWN)
    command = [
        *(str(python.parent / "schemathesis"), "run", f"http://127.0.0.1:{server.port}/openapi.json"),
        *("--include-path-regex", PATHS, "--checks", CHECKS, "--max-examples", "10", "--phases", "examples,fuzzing"),
        *("--seed", "7", "--no-color", "--suppress-health-check", "all", "--request-timeout", "60"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{server.text[-4000:]}"
    assert "operations repeatedly returned 404" not in done.stdout, done.stdout[-4000:]
