"""A real conda installs from `envtool channel serve`."""

from __future__ import annotations

from tests.functional.channel.test_serve import serving
from tests.interop.conda.conftest import Desk, listed


def test_conda_installs_with_the_token_and_not_without(desk: Desk) -> None:
    token, prefix = desk.user.home / "token", desk.user.home / "of-channel"
    token.write_text("s3cret\n")
    for served in serving(desk.user, desk.user.home / "channel", "--token-file", token):
        search = ("search", "--override-channels", "-c")
        refused = desk.conda.run(*search, served.url, "tool", code=1)
        assert "401" in refused.stdout + refused.stderr
        allowed = f"{served.url.rstrip('/')}/t/s3cret"
        desk.conda.run("create", "-p", prefix, "--override-channels", "-c", allowed, "tool=1.0")
    assert {name for name, _, _ in listed(desk, prefix)} == {"tool", "library", "data"}
