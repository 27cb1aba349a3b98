"""Who may give orders over HTTP, and what becomes of them."""

from __future__ import annotations

import json

import pytest
from predictors import make_server

from serve.errors import OperationError
from serve.gateway.admin import authorize, carry_out
from serve.gateway.flask_app import create_app
from serve.operations.operations import Operations
from serve.store.checkpoint_store import Store
from serve.store.ledger import Entry, Ledger

TOKEN = "correct horse battery"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def operations(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "sha256").mkdir()
    for number in (1, 2):
        (tmp_path / "sha256" / (str(number) * 64)).touch()
        Ledger(store).commit(Entry(0, str(number) * 64, 0, f"v{number}", f"m{number}", number, f"f{number}"))
    return Operations(tmp_path)


def test_without_a_token_file_there_is_nothing():
    assert authorize(None, {"authorization": f"Bearer {TOKEN}"}).status == 404


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens(token_file, scheme):
    assert authorize(token_file, {"authorization": f"{scheme} {TOKEN}"}) is None


@pytest.mark.parametrize("shown", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer été"])
def test_anything_else_does_not(token_file, shown):
    answer = authorize(token_file, {} if shown is None else {"authorization": shown})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_token_file_without_a_token_opens_to_nobody(token_file, content):
    if content is None:
        token_file.unlink()
    else:
        token_file.write_text(content)
    assert authorize(token_file, {"authorization": "Bearer "}).status == 401


def test_a_new_token_needs_no_restart(token_file):
    token_file.write_text("another")
    assert authorize(token_file, {"authorization": "Bearer another"}) is None


def test_orders_are_given(operations):
    pinned = carry_out(operations, "pin", b'{"reason": "holidays"}')
    assert (pinned.status, json.loads(pinned.body)["reason"]) == (202, "holidays")
    assert operations.status().pin.version == "v2"
    assert json.loads(carry_out(operations, "unpin", b"").body)["was_pinned"]
    back = json.loads(carry_out(operations, "rollback", b'{"version": "v1"}').body)
    assert (back["action"], back["version"]) == ("rollback", "v1")
    assert operations.status().committed.version == "v1"  # at once, because no worker is alive
    assert carry_out(operations, "look", b"{}").status == 202


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("explode", b"", 404),
        ("pin", b"{", 400),
        ("pin", b"\xff", 400),
        ("pin", b"[" * 100_000, 400),
        ("pin", b"[]", 422),
        ("pin", b'{"version": "v1"}', 422),
        ("rollback", b'{"version": 1}', 422),
    ],
)
def test_orders_that_cannot_be(operations, action, body, status):
    answer = carry_out(operations, action, body)
    assert answer.status == status
    assert "error" in json.loads(answer.body)


def test_an_order_that_cannot_be_carried_out(operations):
    with pytest.raises(OperationError, match="version v9 among the older ones"):
        carry_out(operations, "rollback", b'{"version": "v9"}')


@pytest.mark.parametrize(
    ("model", "action", "body", "status", "error"),
    [
        ("M", "rollback", b'{"version": "v9"}', 409, "version v9 among the older ones"),
        ("M", "unpin", b"", 202, None),
        ("N", "pin", b"", 404, "model: expected M, found N"),
        ("M@canary", "pin", b"", 404, "model: expected M, found M@canary"),
    ],
)
def test_an_order_over_http(operations, token_file, tmp_path, model, action, body, status, error):
    settings = f'model = "m:M"\ncheckpoints = "ck"\nstore = "."\nadmin_token_file = "{token_file}"\n'
    client = create_app(make_server(tmp_path, settings).settings).test_client()
    answer = client.post(f"/admin/models/{model}/{action}", data=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == status
    assert error is None or error in answer.json["error"]
    assert status != 409 or answer.json["hint"]


def test_an_order_to_a_model_without_a_store(token_file, tmp_path):
    settings = f'model = "m:M"\ncheckpoints = "ck"\nstore = "none"\nadmin_token_file = "{token_file}"\n'
    client = create_app(make_server(tmp_path, settings).settings).test_client()
    answer = client.post("/admin/models/M/look", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, "store of a server" in answer.json["error"]) == (409, True)
