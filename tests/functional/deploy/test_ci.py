"""`envtool ci` on a small environment, in each of the ways in which it can end."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from envtool.cli.ci import CiReport, Step, Verdict, as_annotations, as_markdown
from tests.functional.deploy.conftest import run_envtool, write_channel, write_environment
from tests.functional.prefix.conftest import User
from tests.support.archives import Archive, File

TOOL = Archive("tool", {"bin/tool": File(b"#!/bin/sh\necho tool\n", 0o755)})
LIBRARY = Archive("library", {"share/library.txt": File(b"library\n")}, depends=("tool",))


@pytest.fixture
def project(user: User) -> Path:
    """A directory with environment.yml and its lock."""
    channel = write_channel(user.home / "channel", [TOOL, LIBRARY])
    project = user.home / "project"
    write_environment(project, channel, "library")
    run_envtool(user, project, "lock")
    return project


def test_all_is_well_and_a_second_run_needs_no_channel(user: User, project: Path) -> None:
    out, _ = run_envtool(user, project, "ci", "--json")
    first = json.loads(out)
    assert (first["verdict"], first["exit_code"], first["package_count"]) == ("good", 0, 2)
    assert [step["verdict"] for step in first["steps"]] == ["good"] * (5 if find_spec("conda_lock") else 4)
    assert f"env digest `{first['env_digest']}`" in (project / "envtool-ci/summary.md").read_text()
    assert ElementTree.parse(project / "envtool-ci/verify.xml").getroot().get("failures") == "0"
    bill = json.loads((project / "envtool-ci/sbom.json").read_text())
    assert {component["name"] for component in bill["components"]} == {"tool", "library"}
    # A runner that kept the cache and nothing else.
    (user.home / "channel").rename(user.home / "gone")
    out, _ = run_envtool(user, project, "ci", "-p", user.home / "other", "--json")
    assert json.loads(out)["env_digest"] == first["env_digest"]


def test_stale(user: User, project: Path) -> None:
    path = project / "environment.yml"
    path.write_text(path.read_text() + "  - tool =1.0\n")
    page = user.home / "page.md"
    page.write_text("before\n")
    on_github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)}
    out, _ = run_envtool(user, project, "ci", code=10, **on_github)
    assert "::error title=envtool ci%3A stale::not shown: the lock is fresh%0A" in out
    assert page.read_text().startswith("before\n## ❌ `conda-lock.yml`: stale\n")
    assert "dependency added: tool=1.0" in page.read_text()
    # The lock as it is was proved all the same.
    assert page.read_text().count("✅") == 3


def test_unreachable(user: User, project: Path) -> None:
    (user.home / "channel/linux-64/tool-1.0-h1_0.conda").unlink()
    out, _ = run_envtool(user, project, "ci", "--json", code=11)
    steps = json.loads(out)["steps"]
    assert [step["verdict"] for step in steps] == ["good", "unreachable", "skipped", "good", "good"][: len(steps)]
    assert "tool-1.0-h1_0.conda" in " ".join(steps[1]["lines"])


def test_vulnerable_as_long_as_it_is_not_ignored(user: User, project: Path) -> None:
    affected = {"package": {"purl": "pkg:conda/tool", "ecosystem": "conda", "name": "tool"}, "versions": ["1.0"]}
    record = {"id": "T-1", "modified": "2026-11-01T00:00:00Z", "summary": "a hole", "affected": [affected]}
    (project / "db.json").write_text(json.dumps({**record, "database_specific": {"severity": "HIGH"}}))
    out, _ = run_envtool(user, project, "ci", "--db", "db.json", "--json", code=13)
    report = json.loads(out)
    assert report["verdict"] == "vulnerable"
    found = [step for step in report["steps"] if step["verdict"] != "good"]
    assert [step["verdict"] for step in found] == ["vulnerable"]
    assert "T-1" in " ".join(found[0]["lines"])
    run_envtool(user, project, "ci", "--db", "db.json", "--level", "critical")
    statement = {"vulnerability": {"name": "T-1"}, "products": [{"@id": "pkg:conda/tool"}], "status": "not_affected"}
    (project / "vex.json").write_text(
        json.dumps({"@context": "https://openvex.dev/ns/v0.2.0", "statements": [statement]})
    )
    run_envtool(user, project, "ci", "--db", "db.json", "--ignore", "vex.json")


def test_other_bytes_than_those_that_were_locked(user: User, project: Path) -> None:
    archive = user.home / "channel/linux-64/tool-1.0-h1_0.conda"
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    out, _ = run_envtool(user, project, "ci", "--json", code=12)
    assert json.loads(out)["steps"][1]["verdict"] == "irreproducible"


def test_an_environment_that_differs_the_second_time(user: User, project: Path) -> None:
    run_envtool(user, project, "ci")
    # As if an earlier install had generated a file that it does not generate the second time.
    prefix = project / ".envtool-ci/env"
    (prefix / "share/generated").write_bytes(b"")
    receipt = prefix / "conda-meta/envserve"
    data = json.loads(receipt.read_text())
    data["generated"]["share/generated"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    receipt.write_text(json.dumps(data))
    run_envtool(user, project, "ci", "--no-rebuild")
    out, _ = run_envtool(user, project, "ci", code=12)
    assert "extra: share/generated (the rebuilt environment does not have it)" in out


def test_an_error_of_another_kind(user: User, project: Path) -> None:
    (project / ".envtool-ci/env").mkdir(parents=True)
    (project / ".envtool-ci/env/mine").write_text("mine\n")
    out, _ = run_envtool(user, project, "ci", code=3)
    assert "was not made by envtool" in out


def test_what_was_found_cannot_change_the_page() -> None:
    step = Step("files", Verdict.IRREPRODUCIBLE, 1.0, ("extra: ```\n# gone", "::error::100%"))
    report = CiReport((step,), None, 1)
    assert as_markdown(report, "lock").count("```") == 2
    assert as_annotations(report) == [
        "::error title=envtool ci%3A irreproducible::not shown: files%0Aextra: ```%0A# gone%0A::error::100%25"
    ]


def test_the_first_failure_decides() -> None:
    steps = (
        Step("a", Verdict.GOOD),
        Step("b", Verdict.STALE),
        Step("c", Verdict.UNREACHABLE),
        Step("d", Verdict.SKIPPED),
    )
    assert CiReport(steps, None, 0).verdict.exit_code == 10
    assert CiReport((), None, 0).verdict.exit_code == 0
