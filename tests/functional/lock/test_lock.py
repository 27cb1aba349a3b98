from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, read_lockfile

SERVER = """\
name: demo
channels: [conda-forge, nodefaults]
platforms: [linux-64, linux-aarch64, osx-arm64]
dependencies:
  - python=3.9
  - flask
  - numpy
"""
CUDA = """\
channels: [pytorch, nvidia, conda-forge]
dependencies:
  - python=3.9
  - pytorch=2.3.0
  - pytorch-cuda=12.1
  - flask
  - gunicorn
virtual-packages:
  linux-64:
    __cuda: "12.1"
    __glibc: "2.31"
"""


def done(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stderr
    return result


def versions(lockfile: Lockfile, platform: str = "linux-64") -> dict[str, str]:
    return {each.name: each.version for each in lockfile.packages if each.platform == platform}


def package(lockfile: Lockfile, name: str, platform: str = "linux-64") -> LockedPackage:
    return next(each for each in lockfile.packages if (each.name, each.platform) == (name, platform))


def test_several_platforms_with_canonical_urls_and_hashes(envtool, write, tmp_path: Path) -> None:
    write(SERVER)
    done(envtool("lock"))
    text = (tmp_path / "conda-lock.yml").read_text()
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    assert lockfile.platforms == ("linux-64", "linux-aarch64", "osx-arm64")
    assert set(lockfile.content_hash) == set(lockfile.platforms)
    for platform in lockfile.platforms:
        assert versions(lockfile, platform)["python"] == "3.9.23"
    for each in lockfile.packages:
        assert each.url.startswith("https://conda.anaconda.org/conda-forge/")
        assert each.url.split("/")[-2] in (each.platform, "noarch")
        assert each.sha256
        assert each.md5
    assert "127.0.0.1" not in text
    assert str(tmp_path) not in text


def test_the_same_bytes_whatever_the_order_of_the_lines(envtool, write, tmp_path: Path) -> None:
    write(SERVER)
    done(envtool("lock"))
    first = (tmp_path / "conda-lock.yml").read_bytes()
    write(SERVER.replace("  - python=3.9\n  - flask\n", "  # a comment\n  - flask\n\n  - python =3.9\n"))
    again = done(envtool("lock"))
    second = (tmp_path / "conda-lock.yml").read_bytes()
    assert "locked" in again.stderr
    # The text of `python =3.9` is conda-lock's to hash; everything that we write is the same.
    assert [line for line in first.splitlines() if b"match_specs" not in line] == [
        line for line in second.splitlines() if b"match_specs" not in line
    ]


def test_cuda_from_three_channels(envtool, write, tmp_path: Path) -> None:
    write(CUDA)
    done(envtool("lock"))
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    assert package(lockfile, "pytorch").url.startswith(
        "https://conda.anaconda.org/pytorch/linux-64/pytorch-2.3.0-py3.9_"
    )
    assert package(lockfile, "cuda-cudart").url.startswith("https://conda.anaconda.org/nvidia/")
    assert "__glibc" in package(lockfile, "pytorch-cuda").dependencies or lockfile.packages


def test_categories_of_two_files(envtool, write, tmp_path: Path) -> None:
    write(SERVER)
    write("category: dev\nchannels: [conda-forge]\ndependencies: [pytest, flask]\n", "dev.yml")
    done(envtool("lock", "-f", "environment.yml", "-f", "dev.yml"))
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    categories = {each.name: each.category for each in lockfile.packages if each.platform == "linux-64"}
    assert categories["pytest"] == categories["pluggy"] == "dev"
    assert categories["flask"] == categories["python"] == categories["click"] == "main"
    assert lockfile.sources == ("environment.yml", "dev.yml")
    assert "is current" in done(envtool("lock", "--check")).stderr


def test_what_two_categories_need_has_two_entries(envtool, write, tmp_path: Path) -> None:
    write("channels: [conda-forge]\ndependencies: [python=3.9]\n")
    write("category: dev\nchannels: [conda-forge]\ndependencies: [jinja2]\n", "dev.yml")
    write("category: web\nchannels: [conda-forge]\ndependencies: [flask]\n", "web.yml")
    done(envtool("lock", "-f", "environment.yml", "-f", "dev.yml", "-f", "web.yml"))
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    found = sorted(
        (each.name, each.category) for each in lockfile.packages if each.name in ("flask", "jinja2", "click")
    )
    assert found == [("click", "web"), ("flask", "web"), ("jinja2", "dev"), ("jinja2", "web")]


def test_lines_for_one_platform_only(envtool, write, tmp_path: Path) -> None:
    write(SERVER.replace("- numpy", "- numpy=1.26  # [linux64]\n  - numpy=2.0  # [osx]"))
    done(envtool("lock"))
    lockfile = read_lockfile(tmp_path / "conda-lock.yml")
    assert versions(lockfile, "linux-64")["numpy"] == "1.26.4"
    assert versions(lockfile, "osx-arm64")["numpy"] == "2.0.2"
    assert "numpy" not in versions(lockfile, "linux-aarch64")


def test_a_lock_killed_at_any_moment_leaves_the_old_one_or_the_new_one(envtool, write, tmp_path: Path) -> None:
    write("channels: [conda-forge]\ndependencies: [python=3.9]\n")
    assert envtool("lock").returncode == 0
    old = (tmp_path / "conda-lock.yml").read_bytes()
    write("channels: [conda-forge]\ndependencies: [python=3.9, flask]\n")
    started_s = time.monotonic()
    assert envtool("lock", "-o", "new.yml").returncode == 0
    took_s = time.monotonic() - started_s
    new = (tmp_path / "new.yml").read_bytes()
    seen = set()
    for part in (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1):
        (tmp_path / "conda-lock.yml").write_bytes(old)
        envtool("lock", kill_after_s=part * took_s)
        now = (tmp_path / "conda-lock.yml").read_bytes()
        assert now in (old, new)
        seen.add(now == new)
    assert False in seen
    assert envtool("lock").returncode == 0
    assert (tmp_path / "conda-lock.yml").read_bytes() == new


def test_an_interrupted_or_refused_lock_leaves_the_old_one(envtool, write, tmp_path: Path) -> None:
    write(SERVER)
    done(envtool("lock", "-p", "linux-64"))
    before = (tmp_path / "conda-lock.yml").read_bytes()
    write(SERVER.replace("numpy", "nonesuch"))
    assert envtool("lock").returncode == 3
    assert (tmp_path / "conda-lock.yml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conda-lock.yml", "environment.yml"]


PINNED = SERVER.replace(
    "- python=3.9\n  - flask\n  - numpy",
    "- python=3.9.18\n  - flask=3.0\n  - numpy=1.26\n  - click=8.1.7\n  - werkzeug=3.0.3\n  - jinja2=3.1.4",
)


def test_update_moves_one_package_and_what_must_move_with_it(envtool, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    write(PINNED)
    done(envtool("lock"))
    write(SERVER)
    old = versions(read_lockfile(path))
    done(envtool("lock", "--update", "click"))
    assert changed(old, versions(read_lockfile(path))) == {"click": ("8.1.7", "8.1.8")}
    old = versions(read_lockfile(path))
    done(envtool("lock", "--update", "flask"))
    assert changed(old, versions(read_lockfile(path))) == {
        "flask": ("3.0.3", "3.1.2"),
        "werkzeug": ("3.0.3", "3.1.3"),
    }
    assert "is current" in done(envtool("lock", "--check")).stderr


def test_update_to_a_version(envtool, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    write(SERVER)
    done(envtool("lock", "-p", "linux-64"))
    old = versions(read_lockfile(path))
    done(envtool("lock", "--update", "numpy=1.26"))
    new = versions(read_lockfile(path))
    assert new["numpy"] == "1.26.4"
    assert read_lockfile(path).platforms == ("linux-64",)
    assert {name for name in new if name in old and old[name] != new[name]} == {"numpy"}


def changed(old: dict[str, str], new: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]}


def test_update_of_a_package_that_is_not_there(envtool, write) -> None:
    write(SERVER)
    done(envtool("lock", "-p", "linux-64"))
    refused = envtool("lock", "--update", "nonesuch")
    assert refused.returncode == 3
    assert "neither the lock nor environment.yml has nonesuch" in refused.stderr


def test_only_what_has_to_move_moves_and_says_why(envtool, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    write(PINNED)
    done(envtool("lock", "-p", "linux-64"))
    old = versions(read_lockfile(path))
    write(SERVER + "  - pytest\n")
    shown = json.loads(done(envtool("lock", "--dry-run", "--json")).stdout)
    assert {change["kind"] for change in shown["changes"]} == {"added"}
    assert shown["moved"] == []
    assert versions(read_lockfile(path)) == old
    done(envtool("lock"))
    added = versions(read_lockfile(path))
    assert "pytest" in added
    assert changed(old, added) == {}
    write(SERVER.replace("- flask", "- flask=3.1"))
    answer = done(envtool("lock")).stderr
    assert "moved flask 3.0.3 → 3.1.2: environment.yml:6 asks for flask=3.1" in answer
    assert "moved werkzeug 3.0.3 → 3.1.3: flask 3.1.2 needs werkzeug >=3.1.0" in answer
    assert set(changed(old, versions(read_lockfile(path)))) == {"flask", "werkzeug"}
    done(envtool("lock", "--upgrade"))
    assert len(changed(old, versions(read_lockfile(path)))) > 1


def test_a_package_that_is_new_can_be_named_and_still_nothing_else_moves(envtool, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    write(PINNED)
    done(envtool("lock", "-p", "linux-64"))
    old = versions(read_lockfile(path))
    write(SERVER + "  - pytest\n")
    done(envtool("lock", "--upgrade-package", "pytest"))
    assert changed(old, versions(read_lockfile(path))) == {}
    path.write_text("no lock")
    assert "--upgrade" in envtool("lock").stderr
    done(envtool("lock", "--upgrade"))


def test_platforms_of_a_lock_stay_where_no_source_names_any(envtool, write, tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    write(SERVER)
    done(envtool("lock"))
    text = path.read_text()
    theirs = re.sub(r"(?ms)^  custom_metadata:.*?^(?=package:)", "  custom_metadata: {}\n", text)
    path.write_text(theirs)  # as another tool would write it
    write(SERVER.replace("platforms: [linux-64, linux-aarch64, osx-arm64]\n", ""))
    checked = envtool("lock", "--check")
    assert "platform" not in checked.stdout
    done(envtool("lock", "--update", "click"))
    assert read_lockfile(path).platforms == ("linux-64", "linux-aarch64", "osx-arm64")
    assert "no longer locked: linux-aarch64, osx-arm64" in done(envtool("lock", "-p", "linux-64")).stderr


def test_strategy_lowest(envtool, write, tmp_path: Path) -> None:
    write(SERVER)
    done(envtool("lock", "-p", "linux-64", "--strategy", "lowest"))
    assert versions(read_lockfile(tmp_path / "conda-lock.yml"))["flask"] == "2.3.2"
    done(envtool("lock", "-p", "linux-64", "--strategy", "lowest-direct"))
    assert versions(read_lockfile(tmp_path / "conda-lock.yml"))["python"] == "3.9.18"


def test_exclude_newer_leaves_out_what_is_younger(envtool, write, tmp_path: Path) -> None:
    write("channels: [conda-forge]\ndependencies: [click]\n")
    done(envtool("lock", "--exclude-newer", "2027-01-01"))
    newest = versions(read_lockfile(tmp_path / "conda-lock.yml"))["click"]
    write("channels: [conda-forge]\ndependencies: [click]\nexclude-newer: 2024-12-01\n")
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "without exclude-newer 2024-12-01 23:59 UTC it could be satisfied" in refused.stderr
    assert newest == "8.4.2"


@pytest.mark.parametrize("text", ["soon", "2026-13-01"])
def test_a_date_that_is_none(envtool, write, text: str) -> None:
    write(SERVER)
    refused = envtool("lock", "--exclude-newer", text)
    assert refused.returncode == 3
    assert f"--exclude-newer: '{text}' is neither a date nor a duration" in refused.stderr


def test_variables_of_the_file_stand_in_the_lock(envtool, write, tmp_path: Path) -> None:
    write(SERVER + "variables:\n  OMP_NUM_THREADS: 1\n")
    done(envtool("lock", "-p", "linux-64"))
    assert read_lockfile(tmp_path / "conda-lock.yml").custom_metadata["envtool_variables"] == '{"OMP_NUM_THREADS": "1"}'


def test_a_password_in_a_channel_url_never_reaches_the_lock(envtool, write, mirror: str, tmp_path: Path) -> None:
    host = mirror.partition("//")[2]
    write(f"channels: ['http://$USER_NAME:$SECRET@{host}/conda-forge']\ndependencies: [click]\n")
    missing = envtool("lock")
    assert missing.returncode == 3
    assert "needs the variable USER_NAME, SECRET, which is not set" in missing.stderr
    done(envtool("lock", USER_NAME="me", SECRET="hunter2"))
    text = (tmp_path / "conda-lock.yml").read_text()
    assert "hunter2" not in text
    assert f"url: http://{host}/conda-forge/noarch/click-" in text
    assert "$SECRET" in text


def test_a_literal_password_is_refused_with_its_line(envtool, write) -> None:
    write("channels:\n  - https://me:hunter2@host.example/c\ndependencies: [click]\n")
    refused = envtool("lock")
    assert refused.returncode == 3
    assert "environment.yml:2: credentials in https://host.example/c" in refused.stderr
    assert "hunter2" not in refused.stderr


def test_records_without_an_md5_are_refused_with_a_hint(envtool, write, tmp_path: Path) -> None:
    record = {"name": "demo", "version": "1", "build": "0", "build_number": 0, "depends": [], "sha256": "a" * 64}
    for subdir, packages in (("linux-64", {}), ("noarch", {"demo-1-0.conda": {**record, "subdir": "noarch"}})):
        (tmp_path / "channel" / subdir).mkdir(parents=True)
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages, "repodata_version": 1}
        (tmp_path / "channel" / subdir / "repodata.json").write_text(json.dumps(repodata))
    write("channels: [./channel]\nplatforms: [linux-64]\ndependencies: [demo]\n")
    answer = envtool("lock")
    assert answer.returncode == 3
    assert "demo-1-0.conda has no md5" in answer.stderr
    assert "envtool channel index" in answer.stderr


def test_forty_lines_of_which_some_are_unknown_are_looked_up(envtool, write) -> None:
    good = ["python=3.9", "flask", "numpy", "click", "werkzeug", "jinja2"]
    bad = [f"nonesuch-{number}" for number in range(28)] + ["pytest=99", "gunicorn<0", "packaging=0.0.0.1"]
    lines = "".join(f"  - {each}\n" for each in good + bad)
    write(f"channels: [conda-forge]\nplatforms: [linux-64]\ndependencies:\n{lines}")
    refused = envtool("lock")
    assert refused.returncode == 3
    for position, each in enumerate(bad):
        assert f"environment.yml:{position + 10}: {each} (no channel has " in refused.stderr
    assert "each of these 31 lines cannot be satisfied:" in refused.stderr
    assert ": nonesuch-7 (no channel has a package of this name)\n" in refused.stderr
    assert ": pytest=99 (no channel has such a version or build; the newest is pytest 8" in refused.stderr
    for each in good:
        assert f": {each}\n" not in refused.stderr
        assert f": {each} (" not in refused.stderr
