"""What every test shares: names that stay the same, and a way out that py-rattler cannot spoil."""

from __future__ import annotations

import os
import sys

import pytest

_status = 0
# Processes that share the tests take files in this order: what runs for minutes must not begin when all else is done.
_LONGEST_FIRST = (
    *("tests/e2e/", "tests/functional/deploy/", "tests/functional/channel/", "tests/serve/functional/"),
    *("tests/serve/http/", "tests/interop/", "tests/functional/", "tests/property/", "tests/"),
)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    global _status
    _status = int(exitstatus)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, place in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(place)), 0)


def pytest_make_parametrize_id(val: object) -> str | None:
    # Archives have the time of their making in them; processes that share the tests must agree on their names.
    return "bytes" if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # Once py-rattler has solved in this process, the interpreter may crash while it shuts down, after all tests.
    if "rattler" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status)
