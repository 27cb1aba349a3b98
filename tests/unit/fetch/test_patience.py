from __future__ import annotations

import pytest

from envtool.errors import EnvtoolError
from envtool.fetch import failover
from envtool.fetch.failover import Timeouts


def test_without_variables_the_defaults_hold() -> None:
    assert failover.configured_timeouts() == Timeouts()


def test_each_variable_changes_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "CONNECT_TIMEOUT_S": "1.5", "READ_TIMEOUT_S": "2", "MIN_BYTES_PER_S": "0", "ATTEMPTS": "7", "BACKOFF_S": "0",
        "MAX_WAIT_S": "3",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ENVTOOL_{name}", text)
    assert failover.configured_timeouts() == Timeouts(1.5, 2.0, 0.0, 7, 0.0, 20.0, 3.0)


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_anything_else_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ENVTOOL_READ_TIMEOUT_S", text)
    with pytest.raises(EnvtoolError, match=f"ENVTOOL_READ_TIMEOUT_S must be a positive number, not '{text}'"):
        failover.configured_timeouts()
