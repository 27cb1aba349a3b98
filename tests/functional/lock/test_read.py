"""diff, tree, why and export, on locks of real records."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "conda-lock.yml"
CPU_LOCK = ROOT / "cpu-conda-lock.yml"


def edited(text: str) -> str:
    """The lock with one package upgraded, one rebuilt, one gone."""
    assert "flask-3.1.2-pyhd8ed1ab_0" in text
    text = text.replace("- name: flask\n  version: 3.1.2", "- name: flask\n  version: 3.1.3")
    text = text.replace("flask-3.1.2-pyhd8ed1ab_0.conda", "flask-3.1.3-pyhd8ed1ab_0.conda")
    head, *entries = text.split("\n- name: ")
    changed = []
    for entry in entries:
        if entry.startswith("zipp\n"):
            continue
        if entry.startswith(("flask\n", "click\n")):
            digits = entry.split("sha256: ")[1].split("\n")[0]
            entry = entry.replace(digits, "ab" * 32)
        if entry.startswith("click\n"):
            entry = entry.replace("-pyh707e725_0.conda", "-pyh707e725_9.conda")
        changed.append(entry)
    return "\n- name: ".join([head, *changed])


@pytest.fixture
def newer(write) -> Path:
    write(LOCK.read_text(), "conda-lock.yml")
    return write(edited(LOCK.read_text()), "new-lock.yml")


def test_diff_as_a_table(envtool, newer: Path) -> None:
    answer = envtool("diff", "conda-lock.yml", newer)
    assert answer.returncode == 0, answer.stderr
    assert [line.split() for line in answer.stdout.splitlines()] == [
        ["rebuilt", "click", "8.1.8", "pyh707e725_0", "→", "8.1.8", "pyh707e725_9"],
        ["upgraded", "flask", "3.1.2", "→", "3.1.3"],
        ["removed", "zipp", "3.23.0"],
    ]
    assert answer.stderr.strip() == "1 removed, 1 upgraded, 1 rebuilt"
    assert envtool("diff", newer, "conda-lock.yml").stdout.split()[7:9] == ["downgraded", "flask"]


def test_diff_as_markdown_and_json(envtool, newer: Path) -> None:
    markdown = envtool("diff", "conda-lock.yml", newer, "--markdown").stdout
    assert "| flask | upgraded | 3.1.2 | 3.1.3 |  |" in markdown.splitlines()
    found = json.loads(envtool("diff", "conda-lock.yml", newer, "--json").stdout)
    assert [(each["kind"], each["name"], each["platforms"]) for each in found] == [
        ("rebuilt", "click", ["linux-64"]),
        ("upgraded", "flask", ["linux-64"]),
        ("removed", "zipp", ["linux-64"]),
    ]


def test_diff_names_the_platforms_where_it_is_not_all(envtool, write) -> None:
    write(CPU_LOCK.read_text(), "conda-lock.yml")
    head, *entries = CPU_LOCK.read_text().split("\n- name: ")
    kept = [entry for entry in entries if not (entry.startswith("flask\n") and "platform: osx-arm64" in entry)]
    write("\n- name: ".join([head, *kept]), "new-lock.yml")
    assert envtool("diff", "conda-lock.yml", "new-lock.yml").stdout.split() == [
        "removed",
        "flask",
        "3.1.3",
        "osx-arm64",
    ]
    assert envtool("diff", "conda-lock.yml", "new-lock.yml", "-p", "linux-64").stdout == ""


def test_exit_code_of_diff(envtool, newer: Path) -> None:
    assert envtool("diff", "conda-lock.yml", newer, "--exit-code").returncode == 1
    assert envtool("diff", "conda-lock.yml", "conda-lock.yml", "--exit-code").returncode == 0


def test_diff_of_git_revisions(envtool, write, newer: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("add", "conda-lock.yml")
    git("commit", "-qm", "first")
    write(newer.read_text(), "conda-lock.yml")
    assert "upgraded  flask" in envtool("diff").stdout
    git("commit", "-qam", "second")
    assert envtool("diff").stdout == ""
    assert "upgraded  flask" in envtool("diff", "HEAD~1").stdout
    assert "upgraded  flask" in envtool("diff", "HEAD~1", "HEAD").stdout
    assert "downgraded  flask" in envtool("diff", "HEAD:conda-lock.yml", "HEAD~1").stdout
    unknown = envtool("diff", "v9")
    assert unknown.returncode == 3
    assert "'v9' is neither a file nor a git revision with conda-lock.yml" in unknown.stderr


def test_tree_from_a_package(envtool) -> None:
    lines = envtool("tree", "jinja2", "-f", LOCK, "--depth", "1", "--no-sizes").stdout.splitlines()
    assert lines == ["jinja2 3.1.6", "├─ markupsafe 3.0.2", "└─ python 3.9.23"]


def test_tree_of_everything_shows_each_package_in_full_once(envtool) -> None:
    lines = envtool("tree", "-f", LOCK, "--no-sizes").stdout.splitlines()
    roots = [line.split()[0] for line in lines if line[0].isalpha()]
    assert {"flask", "gunicorn", "python", "pytorch", "pytorch-cuda"} <= set(roots)
    with_needs = [line for line in lines if "─ python 3.9.23" in line and "(*)" not in line]
    assert len(with_needs) <= 1


def test_tree_the_other_way_round(envtool) -> None:
    answer = envtool("tree", "markupsafe", "--reverse", "-f", LOCK, "--no-sizes", "--depth", "1")
    assert answer.stdout.splitlines() == ["markupsafe 3.0.2", "├─ flask 3.1.2", "├─ jinja2 3.1.6", "└─ werkzeug 3.1.3"]


def test_tree_as_json(envtool) -> None:
    found = json.loads(envtool("tree", "flask", "-f", LOCK, "--json", "--no-sizes").stdout)
    assert found["roots"] == ["flask"]
    flask = next(package for package in found["packages"] if package["name"] == "flask")
    assert "werkzeug" in flask["needs"]
    assert flask["requested"] == "flask>=3.0"


def test_sizes_that_this_machine_knows(envtool, write) -> None:
    write("channels: [conda-forge]\ndependencies: [click]\n")
    assert envtool("lock").returncode == 0
    answer = envtool("tree", "--depth", "0")
    assert answer.stdout.strip() == "click 8.4.2 (107.2 kB)"
    assert "whose size is known" in answer.stderr


def test_sizes_stand_in_the_lock_for_machines_that_have_seen_nothing(envtool, tmp_path: Path) -> None:
    answer = envtool("tree", "jinja2", "-f", LOCK, "--depth", "0", ENVTOOL_HOME=str(tmp_path / "new"))
    assert answer.stdout.strip() == "jinja2 3.1.6 (112.7 kB)"


def test_why(envtool) -> None:
    answer = envtool("why", "markupsafe", "-f", LOCK)
    assert answer.returncode == 0
    assert answer.stdout.splitlines() == [
        "flask>=3.0 (asked for) → markupsafe >=2.1.1",
        "jinja2>=3.1 (asked for) → markupsafe >=2.0",
        "pytorch=2.3.0 (asked for) → jinja2 → markupsafe >=2.0",
    ]


def test_why_of_a_package_that_is_not_there(envtool) -> None:
    answer = envtool("why", "nonesuch", "-f", LOCK)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "nonesuch is not in the lock for linux-64" in answer.stderr


def test_a_platform_that_the_lock_does_not_have(envtool) -> None:
    answer = envtool("why", "flask", "-f", CPU_LOCK, "-p", "win-64")
    assert answer.returncode == 3
    assert "the lock has nothing for win-64; it has linux-64, osx-arm64" in answer.stderr


def test_a_category_that_the_lock_does_not_have(envtool) -> None:
    answer = envtool("tree", "-f", LOCK, "--category", "dev")
    assert answer.returncode == 3
    assert "the lock has no category dev; it has main" in answer.stderr


def test_export_of_a_pinned_environment(envtool) -> None:
    with_builds = envtool("export", "environment", "-f", LOCK, "-n", "prod").stdout
    assert with_builds.startswith("name: prod\nchannels:\n- pytorch\n- nvidia\n- conda-forge\n- nodefaults\n")
    assert "- pytorch::pytorch=2.3.0=py3.9_cuda12.1_cudnn8.9.2_0\n" in with_builds
    without = envtool("export", "environment", "-f", LOCK, "--no-builds").stdout
    assert "- pytorch::pytorch=2.3.0\n" in without


def test_export_of_urls_with_sha256(envtool) -> None:
    lines = envtool("export", "explicit", "-f", LOCK, "--sha256").stdout.splitlines()
    assert lines[1:3] == ["# platform: linux-64", "@EXPLICIT"]
    assert len(lines) == 3 + LOCK.read_text().count("manager: conda")
    assert all(len(line.partition("#")[2]) == 64 for line in lines[3:])


def test_export_into_a_file_with_every_platform_of_a_lock(envtool, tmp_path: Path) -> None:
    assert envtool("export", "explicit", "-f", CPU_LOCK, "-p", "osx-arm64", "-o", "mac.txt").returncode == 0
    assert "osx-arm64/python-3.12" in (tmp_path / "mac.txt").read_text()


@pytest.fixture
def bill(envtool, write) -> str:
    write("channels: [conda-forge]\ndependencies: [python=3.9, flask]\n")
    assert envtool("lock").returncode == 0
    answer = envtool("export", "cyclonedx", "-n", "demo")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_bill_of_materials_follows_its_schema(envtool, bill: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(bill) is None
    older = envtool("export", "cyclonedx", "-n", "demo", "--spec", "1.6").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(older) is None
    assert [json.loads(text)["specVersion"] for text in (bill, older)] == ["1.7", "1.6"]


def test_the_bill_of_materials_has_hashes_licences_and_dependencies(bill: str) -> None:
    found = json.loads(bill)
    flask = next(component for component in found["components"] if component["name"] == "flask")
    assert flask["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert {digest["alg"] for digest in flask["hashes"]} == {"MD5", "SHA-256"}
    assert flask["purl"].startswith("pkg:conda/flask@3.1.2?build=pyhd8ed1ab_0&channel=conda-forge&subdir=noarch")
    assert all(each.get("licenses") for each in found["components"])
    needed = {
        dependency["ref"]: dependency["dependsOn"] for dependency in found["dependencies"] if "dependsOn" in dependency
    }
    assert any(ref.startswith("pkg:conda/werkzeug@") for ref in needed[flask["bom-ref"]])
    assert len(needed["environment:demo"]) == 2


def test_the_same_lock_gives_the_same_bill_of_materials(envtool, bill: str) -> None:
    assert envtool("export", "cyclonedx", "-n", "demo").stdout == bill


def test_a_lock_without_wheels_for_readers_that_refuse_them(envtool, write) -> None:
    wheel = (
        "- name: six\n  version: 1.17.0\n  manager: pip\n  platform: linux-64\n  dependencies: {}\n"
        "  url: https://files.example.org/six-1.17.0-py2.py3-none-any.whl\n"
        f"  hash:\n    sha256: {'ab' * 32}\n  category: main\n  optional: false\n"
    )
    write(LOCK.read_text() + wheel, "conda-lock.yml")
    answer = envtool("export", "conda-lock")
    assert answer.returncode == 0, answer.stderr
    assert "manager: pip" not in answer.stdout
    assert answer.stdout.count("manager: conda") == LOCK.read_text().count("manager: conda")
    pylock = envtool("export", "pylock").stdout
    assert 'requires-python = "==3.9.*"' in pylock
    assert 'name = "six-1.17.0-py2.py3-none-any.whl"' in pylock
    assert "six==1.17.0" in envtool("export", "environment").stdout
