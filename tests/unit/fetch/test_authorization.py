from __future__ import annotations

import json
from pathlib import Path

import pytest

from envtool.errors import EnvtoolError
from envtool.fetch.credentials import AUTH_FILE_VARIABLE, authorize, without_credentials, without_secrets


@pytest.fixture
def auth_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "auth.json"
    path.write_text(
        json.dumps(
            {
                "a.example": {"BearerToken": "bear"},
                "*.corp.example": {"BasicHTTP": {"username": "me", "password": "pass"}},
                "t.example": {"CondaToken": "tok"},
            }
        )
    )
    monkeypatch.setenv(AUTH_FILE_VARIABLE, str(path))
    return path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x", ("https://a.example/x", "Bearer bear")),
        ("https://m.corp.example:8443/x", ("https://m.corp.example:8443/x", "Basic bWU6cGFzcw==")),
        ("https://t.example/c/x", ("https://t.example/t/tok/c/x", None)),
        ("https://t.example/t/mine/c/x", ("https://t.example/t/mine/c/x", None)),
        ("https://b.example/x", ("https://b.example/x", None)),
        ("https://u:p@a.example/x", ("https://u:p@a.example/x", "Basic dTpw")),
    ],
)
@pytest.mark.usefixtures("auth_file")
def test_the_file_lets_requests_in(url: str, expected: tuple[str, str | None]) -> None:
    assert authorize(url) == expected


def test_variables_are_put_in_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTH_FILE_VARIABLE, raising=False)
    monkeypatch.setenv("MIRROR_PASSWORD", "secret")
    assert authorize("https://me:${MIRROR_PASSWORD}@m.example/x")[0] == "https://me:secret@m.example/x"
    with pytest.raises(EnvtoolError, match="NO_SUCH_VARIABLE"):
        authorize("https://me:${NO_SUCH_VARIABLE}@m.example/x")


@pytest.mark.parametrize("content", ["no json", "[]", '{"a.example": 3}'])
def test_a_broken_file_is_named_but_not_quoted(auth_file: Path, content: str) -> None:
    auth_file.write_text(content)
    with pytest.raises(EnvtoolError) as caught:
        authorize("https://a.example/x")
    assert str(auth_file) in caught.value.message
    assert content not in caught.value.message


def test_nothing_secret_is_shown() -> None:
    assert without_credentials("https://u:p@h.example/t/tok/c/x?sig=1#y") == "https://h.example/t/***/c/x"
    assert without_secrets("see https://u:p@h.example/t/tok/x and more") == "see https://***@h.example/t/***/x and more"
