"""Signed channels: what no trusted key has signed is not created and not locked."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import User, user
from tests.support.archives import Archive, File, locked

__all__ = ["user"]  # a fixture


@dataclass(frozen=True)
class Team:
    """A signed channel, and a user who asks for signatures."""

    user: User
    channel: Path

    @property
    def env(self) -> dict[str, str]:
        """What trusts the team's key for everything on this machine."""
        return {"ENVTOOL_TRUSTED_KEYS": str(self.user.home / "team.pub"), "ENVTOOL_TRUSTED_CHANNELS": "file:///"}

    def key(self, name: str) -> Path:
        private = self.user.home / f"{name}.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", private.with_suffix(".pub")], check=True)
        return private

    def create(self, *options: object, code: int = 0) -> str:
        return self.user.run("create", "-p", self.user.home / "env", *options, code=code, **self.env).stderr


@pytest.fixture
def team(user: User, tmp_path: Path) -> Team:
    team = Team(user, user.home / "channel")
    tool = Archive("tool", {"bin/tool": File(b"#!/bin/sh\n", 0o755)}).write(tmp_path)
    data = Archive("data", {"share/d": File(b"d")}, subdir="noarch", noarch="generic").write(tmp_path)
    user.run("channel", "add", team.channel, tool, data, "--key", team.key("team"))
    user.write_lock(*(locked(path) for path in sorted(team.channel.rglob("*.conda"))))
    return team


def test_what_is_signed_is_created_also_offline(team: Team) -> None:
    team.create()
    team.create("--force", "--offline")
    said = team.user.run("channel", "index", team.channel).stderr
    assert "was signed and is not any more" in said
    assert not (team.channel / "channel.json").exists(), "a signature that does not fit any more is no signature"
    assert "is not signed" in team.create("--force", code=3)
    team.user.run("create", "-p", team.user.home / "other")  # asks for nothing


def test_what_is_altered_is_refused(team: Team) -> None:
    prefix = team.user.home / "env"
    index, repodata = team.channel / "channel.json", team.channel / "noarch" / "repodata.json"
    right = index.read_bytes(), repodata.read_bytes()
    repodata.write_bytes(right[1].replace(b"generic", b"Generic"))
    assert "repodata.json is not the file that was expected" in team.create(code=3)
    repodata.write_bytes(right[1])
    index.write_bytes(right[0] + b"\n")
    assert "none of them made" in team.create(code=3)
    index.write_bytes(right[0])
    (team.channel / "channel.json.sig").unlink()
    assert "found none" in team.create(code=3)
    team.user.run("channel", "index", team.channel, "--key", team.key("other"))
    assert "none of them made" in team.create(code=3)
    assert not (prefix / "bin").exists()
    team.user.run("channel", "index", team.channel, "--key", team.user.home / "team.pem")
    team.create()


def test_an_archive_that_the_signed_index_lacks_is_refused(team: Team, tmp_path: Path) -> None:
    other = Archive("tool", {"bin/tool": File(b"#!/bin/sh\nother\n", 0o755)}).write(tmp_path / "evil")
    (team.channel / "linux-64" / other.name).write_bytes(other.read_bytes())
    team.user.write_lock(*(locked(path) for path in sorted(team.channel.rglob("*.conda"))))
    assert "is not in the signed index" in team.create(code=3)


def test_nothing_is_locked_from_a_channel_that_is_not_signed(team: Team) -> None:
    (team.user.home / "environment.yml").write_text(
        f"channels: ['{team.channel.as_uri()}']\ndependencies: [tool, data]\nplatforms: [linux-64]\n"
    )
    team.user.run("lock", **team.env)
    before = (team.user.home / "conda-lock.yml").read_bytes()
    team.user.run("channel", "index", team.channel)
    assert "is not signed" in team.user.run("lock", code=3, **team.env).stderr
    assert (team.user.home / "conda-lock.yml").read_bytes() == before


def test_the_configuration_names_keys_and_channels(team: Team) -> None:
    config = team.user.home / "envtool" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(f'[trust]\nkeys = ["../team.pub"]\nchannels = ["{team.channel.as_uri()}/"]\n')
    team.user.run("channel", "index", team.channel)
    arguments = ("create", "-p", team.user.home / "env")
    assert "is not signed" in team.user.run(*arguments, code=3).stderr
    config.write_text('[trust]\nkeys = ["../team.pub"]\nchannels = ["https://elsewhere.example.org/"]\n')
    team.user.run(*arguments)
    config.write_text('[trust]\nkey = ["../team.pub"]\n')
    assert "may have keys" in team.user.run(*arguments, "--force", code=3).stderr
    config.write_text('[trust]\nchannels = ["file:///"]\n')
    assert "no key is trusted" in team.user.run(*arguments, "--force", code=3).stderr


def test_a_mirror_is_signed_too(team: Team) -> None:
    made = json.loads(
        team.user.run(
            "channel", "mirror", team.user.home / "mirror", "--key", team.user.home / "team.pem", "--json"
        ).stdout
    )
    assert {"channel.json", "channel.json.sig"} <= set(made["moved"])
    pairs = " ".join(f"{each}={url}" for each, url in made["mirrors"].items())
    (team.channel / "channel.json").unlink()
    team.user.run("create", "-p", team.user.home / "env", ENVTOOL_MIRRORS=pairs, **team.env)
