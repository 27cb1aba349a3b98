"""Audits of locks with databases in which it is known what is planted; the real part is OSV's own format."""

from __future__ import annotations

import json
import random
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from envtool.audit import osv
from envtool.audit.audit import Audit, audit, is_allowed, refused, unjudged
from envtool.cli.audit import command
from envtool.errors import EnvtoolError
from envtool.inspect_lock.graph import graph
from envtool.lockfile.conda_lock_v1 import LockedPackage, format_lockfile
from tests.support.archives import lock_of
from tests.support.environments import make_environment


def package(name: str, version: str, manager: str = "pip", **needs: str) -> LockedPackage:
    file = f"{name}-{version}-0.conda" if manager == "conda" else f"{name}-{version}-py3-none-any.whl"
    url = f"https://example.org/linux-64/{file}"
    return LockedPackage(manager, name, version, "linux-64", url, "0" * 64, "0" * 32, needs)


def record(id: str, name: str, *events: Mapping[str, str], ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    affected = [{"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}]
    return {"id": id, "modified": "2026-11-20T00:00:00Z", "summary": f"of {name}", "affected": affected, **more}


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for each in records:
                archive.writestr(f"{each['id']}.json", json.dumps(each))
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(records)))
    else:
        path.mkdir()
        for each in records:
            (path / f"{each['id']}.json").write_text(json.dumps(each))
    return path


def run(packages: Sequence[LockedPackage], database: Path, vex: Path | None = None) -> Audit:
    return audit(graph(lock_of(*packages), "linux-64", ["main"]), database, vex, date(2026, 11, 30))


ZERO = {"introduced": "0"}


@pytest.mark.parametrize("seed", range(25))
def test_what_is_planted_is_found_and_nothing_else(seed: int, tmp_path: Path) -> None:
    chosen = random.Random(seed)
    names = [f"Package_{number}.x" if number % 3 else f"package-{number}" for number in range(60)]
    locked, records, planted = [], [], set()
    for number, name in enumerate(names):
        minor = chosen.randint(3, 30)
        manager = chosen.choice(["pip", "conda"])
        needs = {"python": "*"} if manager == "conda" else {}
        locked.append(package(name.lower().replace("_", "-").replace(".", "-"), f"1.{minor}", manager, **needs))
        before, after = f"1.{minor - 1}", f"1.{minor + 1}"
        shapes = {
            "fixed later": ([ZERO, {"fixed": after}], True),
            "fixed in it": ([ZERO, {"fixed": f"1.{minor}"}], False),
            "fixed before": ([ZERO, {"fixed": before}], False),
            "last is it": ([{"introduced": "1.0"}, {"last_affected": f"1.{minor}.0"}], True),
            "last was before": ([ZERO, {"last_affected": before}], False),
            "came later": ([{"introduced": after}], False),
            "fixed, and came again": ([ZERO, {"fixed": "1.1"}, {"introduced": before}], True),
            "fixed twice": ([ZERO, {"fixed": "1.1"}, {"introduced": "1.1.1"}, {"fixed": before}], False),
        }
        for shape, (events, is_affected) in chosen.sample(sorted(shapes.items()), 2):
            id = f"T-{number}-{shape.replace(' ', '-')}"
            records.append(record(id, name, *chosen.sample(events, len(events))))
            planted |= {id} if is_affected else set()
        decoy = chosen.choice(["npm", "withdrawn", "alike"])
        if decoy == "npm":
            records.append(record(f"D-{number}", name, ZERO, ecosystem="npm"))
        elif decoy == "withdrawn":
            records.append(record(f"D-{number}", name, ZERO, withdrawn="2026-01-01T00:00:00Z"))
        else:
            records.append(record(f"D-{number}", f"{name}1", ZERO))
    chosen.shuffle(records)
    database = write(tmp_path / chosen.choice(["db.zip", "db.json", "db"]), records)
    assert {each.vulnerability.id for each in run(locked, database).found} == planted


def test_versions_aliases_levels_and_builds(tmp_path: Path) -> None:
    pytest.importorskip("cvss", reason="the extra [audit] is not installed")
    vector = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"
    named = record("GHSA-1", "torch", ZERO, {"last_affected": "1.12.1"}, aliases=["CVE-1"])
    named["database_specific"] = {"severity": "MODERATE"}
    listed = record("PYSEC-1", "torch", aliases=["CVE-1"])
    listed["affected"][0] = {**listed["affected"][0], "ranges": [], "versions": ["1.12.1"]}
    scored = record("X-1", "flask", ZERO, {"fixed": "3"}, severity=[{"type": "CVSS_V3", "score": vector}])
    database = write(tmp_path / "db.json", [listed, named, scored, record("X-2", "flask", ZERO)])
    # A local version is a build of the same source; conda's pytorch is PyPI's torch.
    for locked in (package("torch", "1.12.1+cu113"), package("pytorch", "1.12.1", "conda", python="*")):
        found = [each.vulnerability for each in run([locked], database).found]
        assert [(each.id, each.level, sorted(each.aliases)) for each in found] == [
            ("GHSA-1", "medium", ["CVE-1", "GHSA-1"])
        ]
    result = run([package("flask", "2.0"), package("app", "1", flask="<3")], database)
    levels = {each.vulnerability.id: (each.vulnerability.level, each.vulnerability.fixed) for each in result.found}
    assert levels == {"X-1": ("critical", "3"), "X-2": ("unknown", None)}
    assert result.found[0].held_by == ("app needs flask <3",)
    assert {each.vulnerability.id for each in result.failing("critical")} == {"X-1", "X-2"}


def test_conda_packages_of_no_distribution_are_covered_where_the_database_names_them(tmp_path: Path) -> None:
    own = record("C-1", "openssl", {"introduced": "1.1.0"}, {"fixed": "1.1.1w"}, ecosystem="conda")
    own["affected"][0]["package"] = {"ecosystem": "conda", "name": "openssl", "purl": "pkg:conda/openssl"}
    database = write(tmp_path / "db.json", [own, record("P-1", "zlib", ZERO)])
    result = run([package("openssl", "1.1.1k", "conda"), package("zlib", "1.2", "conda")], database)
    assert [each.vulnerability.id for each in result.found] == ["C-1"]  # 1.1.1k < 1.1.1w by conda's order
    assert run([package("openssl", "1.1.1w", "conda")], database).found == ()
    assert result.uncovered == ("zlib",)
    assert result.age_days == 10


def test_what_is_ignored_comes_back_when_its_time_is_over(tmp_path: Path) -> None:
    database = write(tmp_path / "db.json", [record("GHSA-1", "flask", ZERO, aliases=["CVE-1"])])

    def verdict(**statement: Any) -> tuple[str, str]:
        named = {"vulnerability": {"name": "CVE-1"}, "status": "not_affected", "justification": "no_debug", **statement}
        vex = tmp_path / "vex.json"
        vex.write_text(json.dumps({"@context": "https://openvex.dev/ns/v0.2.0", "statements": [named]}))
        found = run([package("flask", "2.0")], database, vex).found[0]
        return found.ignored, found.note

    assert verdict() == ("no_debug", "")
    assert verdict(products=[{"@id": "pkg:pypi/flask@2.0"}], expires="2026-11-30") == ("no_debug", "")
    assert verdict(expires="2026-11-29") == ("", "was ignored until 2026-11-29: no_debug")
    for other in ({"products": [{"@id": "pkg:pypi/flask@1.0"}]}, {"status": "affected"}, {"vulnerability": "CVE-2"}):
        assert verdict(**other) == ("", "")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = lock_of(package("flask", "2.0"), package("app", "1", flask="*"))
    (tmp_path / "conda-lock.yml").write_text(format_lockfile(lock))
    write(tmp_path / "db.zip", [record("GHSA-1", "flask", ZERO, {"fixed": "2.1"})])
    done = CliRunner().invoke(command, ["--db", "db.zip", "--sarif", "audit.sarif"])
    assert done.exit_code == 1
    assert "pip flask 2.0: unknown: GHSA-1; fixed in 2.1; brought by app\n" in done.output
    assert "2 packages, 0 of them not covered" in done.output
    assert CliRunner().invoke(command, ["--db", "db.zip", "--json"]).exit_code == 1
    write(tmp_path / "other", [record("GHSA-1", "django", ZERO)])
    assert CliRunner().invoke(command, ["--db", "other"]).exit_code == 0
    (tmp_path / "none.json").write_text("[{}")
    assert "cannot be read as a database" in str(CliRunner().invoke(command, ["--db", "none.json"]).exception)
    # Judged by a program that reads SARIF of every scanner.
    python = make_environment(["sarif-tools==3.0.5"])
    shown = subprocess.run(
        [python.with_name("sarif"), "csv", "-o", "out.csv", "audit.sarif"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "GHSA-1" in (tmp_path / "out.csv").read_text()


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    record = {"id": "OSV-7", "affected": [{"package": {"ecosystem": "PyPI", "name": "a"}, "ranges": [{}]}]}
    (tmp_path / "db.json").write_text(json.dumps(record))
    database = osv.read(tmp_path / "db.json", {("PyPI", "a")})
    with pytest.raises(EnvtoolError, match="OSV-7, of a, is not in the OSV format"):
        list(database.find({("PyPI", "a"): "1"}))


def test_licences_by_expressions() -> None:
    stated = {
        "a": "MIT OR GPL-3.0-only",
        "b": "MIT AND GPL-3.0-only",
        "c": None,
        "d": "Some License",
        "e": "BSD-3-Clause",
    }
    assert refused(stated, [], ["GPL-3.0-only"]) == {"b": stated["b"]}
    allowed = refused(stated, ["MIT", "Some License"], [])
    assert allowed == {"b": stated["b"], "c": osv.UNKNOWN, "e": "BSD-3-Clause"}
    assert refused({"x": "GPL-2.0-only WITH Classpath-exception-2.0"}, [], ["GPL-2.0-only"]) != {}


# As records of public channels and classifiers of wheels have them: what is allowed, what is denied, and the answer.
STATED = [
    ("GPL-3.0-only WITH GCC-exception-3.1", "", "GPL-3.0-only", False),
    ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only", "", True),
    ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only", True),
    ("apache-2.0 with llvm-exception", "Apache-2.0 WITH LLVM-exception", "", True),
    ("Apache-2.0 WITH", "Apache-2.0", "", False),
    ("LGPL-2.1-only AND MIT", "MIT", "", False),
    ("LGPL-2.1-only AND MIT", "MIT LGPL-2.1-only", "", True),
    ("LGPL-2.1-or-later", "LGPL-2.1-only", "", True),
    ("LGPL-2.1-only", "LGPL-2.1-or-later", "", False),
    ("GPL-2.0-or-later", "", "GPL-2.0-only", True),
    ("GPL-2.0-only OR FTL", "", "GPL-2.0-only", True),
    ("GPL-2.0-or-later and LGPL-2.1-or-later", "", "LGPL-2.1-or-later", False),
    ("BSD-3-Clause AND (GPL-2.0-only OR GPL-3.0-only)", "BSD-3-Clause GPL-3.0-only", "", True),
    ("LicenseRef-Commercial or GPL-3.0-only", "", "GPL-3.0-only", True),
    ("BSD", "BSD-3-Clause", "", False),
    ("BSD", "BSD", "", True),
    ("BSD 3-Clause", "BSD-3-Clause", "", True),
    ("3-clause BSD", "bsd-3-clause", "", True),
    ("zlib", "Zlib", "", True),
    ("mit", "MIT", "", True),
    ("MIT", "mit", "", True),
    ("MIT License", "MIT", "", True),
    ("Apache License, Version 2.0", "Apache-2.0", "", True),
    ("Apache 2.0 or BSD 2-Clause", "BSD-2-Clause", "", True),
    ("GPLv3", "", "GPL-3.0-only", False),
    ("GPL-3.0", "", "GPL-3.0-only", False),
    ("GPL 3", "", "GPL-3.0", False),
    ("GPL (>= 2)", "", "GPL-2.0-or-later", False),
    ("LGPLv2+ and (LGPLv2+ or MPLv1.1) and Public Domain", "", "LGPL-2.0-or-later", False),
    ("GNU Affero General Public v3 or later (AGPLv3+)", "", "AGPL-3.0-or-later", False),
    ("GNU General Public License v3 (GPLv3)", "", "GPL-3.0-only", False),
    ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0", "", True),
    ("MPLv2.0, MIT", "MIT", "", False),
    ("GPL-3.0-with-GCC-exception", "", "GPL-3.0-only", True),
    ("LicenseRef-NVIDIA-End-User-License-Agreement", "LicenseRef-NVIDIA-End-User-License-Agreement", "", True),
    ("()", "MIT", "", False),
    ("( OR MIT", "", "GPL-2.0", True),
    ("GNU GPL v3", "", "GPL-3.0-only", False),
    ("GPL version 3", "", "GPL-3.0-only", False),
    ("GNU General Public License, version 2", "", "GPL-2.0-only", False),
    ("GPL-2 | GPL-3", "", "GPL-2.0-only GPL-3.0-only", False),
    ("GPL-2 | GPL-3", "", "GPL-2.0-only", True),
    ("GPLv3 or later", "", "GPL-3.0-or-later", False),
    ("GPLv3 or later", "", "GPL-3.0-only", True),
    ("GPL-3.0-only OR some other", "", "GPL-3.0-only", False),
    ("GPL-3.0-only OR Other", "Other", "GPL-3.0-only", True),
    ("Some OR Other", "", "GPL-3.0-only", True),
    ("ISC License (ISCL)", "ISC", "", True),
    ("The Unlicense (Unlicense)", "Unlicense", "", True),
    ("Historical Permission Notice and Disclaimer (HPND)", "HPND", "", True),
    ("Boost Software License 1.0 (BSL-1.0)", "BSL-1.0", "", True),
    ("Eclipse Public License 2.0 (EPL-2.0)", "EPL-2.0", "", True),
    ("Mozilla Public License 1.1 (MPL 1.1)", "MPL-1.1", "", True),
    ("LGPLv3 License (MIT)", "MIT", "", False),
    ("My Commercial License (MIT)", "MIT", "", False),
    ("Not MIT Software License (MIT)", "MIT", "", False),
    ("GNU Affero General Public License v3 (MIT)", "MIT", "", False),
    ("GNU Affero General Public License v3 (GPLv3)", "GPL-3.0-only", "", False),
    ("GNU Lesser General Public License v2 or later (LGPLv2+)", "", "LGPL-2.0-or-later", False),
    ("Mozilla Public License 1.0 (MPL)", "MPL-1.0", "", True),
    ("European Union Public Licence 1.2 (EUPL 1.2)", "EUPL-1.2", "", True),
    ("zlib/libpng License", "Zlib", "", True),
    ("GPL version 2 or (at your option) any later version", "", "GPL-2.0-or-later", False),
    ("GPL version 2 or, at your option, any later version", "", "GPL-2.0-or-later", False),
    ("3-Clause BSD License", "BSD-3-Clause", "", True),
    ("The MIT License", "MIT", "", True),
    ("BSD License", "BSD-3-Clause", "", False),
    ("Apache Software License", "Apache-2.0", "", False),
    ("Public-Domain (http://www.sqlite.org/copyright.html)", "", "MIT", True),
]


@pytest.mark.parametrize(("stated", "allowed", "denied", "expected"), STATED)
def test_licences_as_records_state_them(stated: str, allowed: str, denied: str, expected: bool) -> None:
    names = [allowed] if " WITH " in allowed else allowed.split()
    assert is_allowed(stated, names, denied.split()) is expected


def test_what_no_rule_can_judge_is_named() -> None:
    stated = {
        "a": "MIT AND LicenseRef-PIL",
        "b": "LGPL, MIT",
        "c": None,
        "d": "BSD AND MIT",
        "e": "GPLv3+",
        "f": "GPL-2.0-only WITH GCC-exception-2.0",
    }
    assert unjudged(stated) == {"b": "LGPL, MIT", "c": osv.UNKNOWN, "d": "BSD AND MIT"}
