from __future__ import annotations

import json

import pytest

from serve.checkpoint.provenance import Provenance, read_env_digest


def write(prefix, content):
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta" / "envserve").write_text(content)


def test_the_variable_wins(tmp_path):
    write(tmp_path, json.dumps({"env_digest": "sha256:file"}))
    assert read_env_digest({"ENVSERVE_ENV_DIGEST": "sha256:var"}, tmp_path) == "sha256:var"
    assert read_env_digest({}, tmp_path) == "sha256:file"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"env_digest": 5}', '{"env_digest": "a\\r\\nX-Evil: 1"}'])
def test_a_record_that_says_nothing_usable(tmp_path, content):
    write(tmp_path, content)
    assert read_env_digest({}, tmp_path) is None


def test_no_record(tmp_path):
    assert read_env_digest({}, tmp_path) is None
    assert read_env_digest({"ENVSERVE_ENV_DIGEST": "a b"}, tmp_path) is None


def test_an_unknown_environment_is_said_to_be_unknown():
    provenance = Provenance("m", "v1", 3, "a" * 64, None)
    assert provenance.headers["X-Env-Digest"] == "unknown"
    assert provenance.as_json()["env_digest"] is None
