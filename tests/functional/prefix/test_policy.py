"""The policy of a machine: each rule refuses what breaks it, names itself and a way out, and lets the rest through."""

from __future__ import annotations

import json
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.functional.prefix.conftest import Channel, User
from tests.support.archives import Archive, File, locked


def write(user: User, text: str) -> str:
    path = user.home / "policy.toml"
    path.write_text(text)
    return str(path)


def test_sources(user: User, channel: Channel) -> None:
    user.write_lock(*channel.all)
    place = channel.tool.url.rsplit("/", 2)[0]
    policy = write(user, f'[create]\nsources = ["https://example.org/", "{place}/"]')
    user.run("create", "-p", "env", ENVSERVE_POLICY=policy)
    policy = write(user, '[create]\nsources = ["https://example.org/"]')
    said = user.run("create", "-p", "other", code=3, ENVSERVE_POLICY=policy).stderr
    assert f"create.sources: tool comes from {channel.tool.url}" in said
    assert "hint: lock it from one of these" in said
    assert not (user.home / "other").exists()
    # An environment that was there before the rule: asked for, it is refused as well.
    answer = json.loads(user.run("policy", "-p", "env", "--json", code=1, ENVSERVE_POLICY=policy).stdout)
    assert {each["rule"] for each in answer["breaches"]} == {"create.sources"}
    assert len(answer["breaches"]) == 3
    user.run("policy", "-p", "env", code=3)  # no policy, no answer
    user.run("ci", "--no-rebuild", code=3, ENVSERVE_POLICY=policy)


def test_a_lock_that_nobody_signed(user: User, channel: Channel) -> None:
    pytest.importorskip("cryptography", reason="the extra [sign] is not installed")
    for name in ("team", "other"):
        key = user.home / f"{name}.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub")], check=True)
    lock = user.write_lock(channel.tool)
    policy = write(user, '[create]\nsigned-by = ["team.pub"]')

    def attest(name: str) -> None:  # what `envtool lock --attest` writes, without a solve
        from envtool.signing import attestation

        stated = attestation.provenance(lock, [], {})
        attestation.write(user.home / "conda-lock.yml.dsse.json", stated, user.home / f"{name}.pem")

    said = user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=policy).stderr
    assert "create.signed-by: there is no " in said
    assert "--attest" in said
    attest("other")
    assert (
        "create.signed-by: expected a signature by"
        in user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=policy).stderr
    )
    attest("team")
    user.run("create", "-p", "env", ENVSERVE_POLICY=policy)
    user.write_lock(channel.library, channel.tool)
    said = user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=policy).stderr
    assert "create.signed-by: the statement is about another lock" in said


def test_digests_and_licences(user: User, tmp_path: Path) -> None:
    free = Archive("free", {"share/a": File()})
    unknown = Archive("unknown", {"share/b": File()}, license=None)
    user.write_lock(locked(free.write(tmp_path)))
    user.run("create", "-p", "first")
    digest = user.run("digest", "-p", "first").stdout.strip()
    policy = write(user, f'[create]\nenv-digests = ["{digest}"]\n[audit]\nallow-licenses = ["MIT"]')
    user.run("create", "-p", "env", ENVSERVE_POLICY=policy)
    user.write_lock(locked(free.write(tmp_path)), locked(unknown.write(tmp_path)))
    # Neither the digest nor the licence is known before: it is made, and may not be used.
    said = user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=policy).stderr
    assert "create.env-digests: " in said
    assert "unknown has the licence unknown" in said
    assert "it was made and may not be used" in said
    # Whatever makes one asks again.
    said = user.run("image", "-o", "image", code=3, ENVSERVE_POLICY=policy).stderr
    assert "create.env-digests: " in said
    policy = write(user, '[audit]\ndeny-licenses = ["MIT"]')
    said = user.run("create", "-p", "other", code=3, ENVSERVE_POLICY=policy).stderr
    assert "free has the licence MIT" in said
    vague = Archive("vague", {"share/c": File()}, license="GNU GPL, MIT")
    user.write_lock(locked(vague.write(tmp_path)))
    said = user.run("create", "-p", "vague", ENVSERVE_POLICY=policy).stderr
    assert "what is denied may be in them: conda vague (GNU GPL, MIT)" in said


def test_vulnerabilities_of_an_age(user: User, channel: Channel) -> None:
    user.write_lock(channel.tool)

    def database(days: int, severity: str) -> None:
        published = (date.today() - timedelta(days=days)).isoformat()
        package = {"ecosystem": "conda", "name": "tool", "purl": "pkg:conda/tool"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9"}]}]
        record = {
            "id": "T-1", "modified": f"{published}T00:00:00Z", "published": f"{published}T00:00:00Z",
            "affected": [{"package": package, "ranges": ranges}], "database_specific": {"severity": severity},
        }  # fmt: skip
        (user.home / "db.json").write_text(json.dumps([record]))

    policy = write(user, '[audit]\ndatabase = "db.json"\nlevel = "high"\nolder-than-days = 30')
    database(29, "HIGH")
    user.run("create", "-p", "env", ENVSERVE_POLICY=policy)
    database(400, "MODERATE")
    user.run("policy", "-p", "env", "-o", "report.json", ENVSERVE_POLICY=policy)
    assert json.loads((user.home / "report.json").read_text())["breaches"] == []
    database(30, "HIGH")
    said = user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=policy).stderr
    assert "audit.level: conda tool 1.0: high: T-1; fixed in 9" in said
    assert "envtool lock --upgrade-package tool" in said
    user.run("policy", "-p", "env", "-o", "report.json", code=1, ENVSERVE_POLICY=policy)
    (breach,) = json.loads((user.home / "report.json").read_text())["breaches"]
    assert breach["rule"] == "audit.level"


@pytest.mark.parametrize(
    "text", ["[create]\nsource = []", "[audit]\nlevel = 'worst'", "[create]\nsources = 'x'", "[x]", "create = 1", "["]
)
def test_a_policy_that_cannot_be_read_lets_nothing_through(user: User, channel: Channel, text: str) -> None:
    user.write_lock(channel.tool)
    said = user.run("create", "-p", "env", code=3, ENVSERVE_POLICY=write(user, text)).stderr
    assert "policy.toml" in said
    assert not (user.home / "env").exists()
