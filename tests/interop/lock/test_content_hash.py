"""Our hash of the sources is the one that conda-lock computes when it reads the same files by itself."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envtool.lockfile.conda_lock_v1 import Lockfile
from envtool.solve.content_hash import conda_lock_hashes, content_hashes, parse, virtual_package_specification
from envtool.solve.lock import with_virtual_packages
from envtool.spec.environment import EnvironmentSpec, read_spec

pytest.importorskip("conda_lock")
PLATFORMS = ["linux-64", "osx-arm64", "osx-64", "win-64", "linux-aarch64"]
CONDA = [
    "python=3.9", "NumPy >=1.20, <2", "pytorch::pytorch=2.3.0=py3.9_*  # [linux]", "zlib", "pip=24", "zlib=1.3",
    "conda-forge::flask", "python 3.9.*", "blas * openblas", "six[version='>=1.2']",
]  # fmt: skip
PIP = [
    "six>=1.16", "flask[async,Dotenv]; sys_platform == 'linux'", "Foo_Bar.baz==1.*,>=1", "six", "a~=1.4.2", "b===2.0",
    "x; python_version < '3' and (os_name == 'nt' or sys_platform=='linux')", "w ; platform_machine=='x86_64'",
    "y; (sys_platform=='win32' or python_version>'3') and os_name=='posix'", "v; 'linux' in sys_platform",
    f"z @ https://h.example/z-1-py3-none-any.whl#sha256={'a' * 64}", f"six==1.16 --hash=sha256:{'b' * 64}",
    "six @ git+https://h.example/six.git@1.16#subdirectory=a", "q @ git+https://h.example/q.git",
]  # fmt: skip
CHANNELS = [
    ["conda-forge"], ["pytorch", "conda-forge", "nodefaults"], ["http://127.0.0.1:8900/x", "conda-forge"],
    ["https://$CUSER:$CPASS@h.example/c", "conda-forge"], ["https://h.example/t/$TOK/c"], ["defaults"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def source(channels: list[str], indexes: list[str], conda: list[str], pip: list[str], category: str) -> str:
    """One environment.yml; a line with a comment stays unquoted."""
    lines = [f"category: {category}", f"channels: {json.dumps(channels)}", f"platforms: {json.dumps(PLATFORMS)}"]
    lines += [f"pip-repositories: {json.dumps(indexes)}"] if indexes else []
    lines += ["dependencies:", "  - ca-certificates"]
    lines += [f"  - {each if '#' in each else json.dumps(each)}" for each in conda]
    lines += ["  - pip:", *(f"      - {json.dumps(each)}" for each in pip)] if pip else []
    return "\n".join(lines) + "\n"


def theirs(paths: list[Path], virtual: dict[str, dict[str, str]] | None) -> dict[str, str]:
    from conda_lock.content_hash import compute_content_hashes
    from conda_lock.src_parser import make_lock_spec
    from conda_lock.virtual_package import default_virtual_package_repodata, virtual_package_repo_from_specification

    names, packages = paths[0].with_name("names.json"), paths[0].with_name("virtual.json")
    names.write_text("{}")
    spec = make_lock_spec(src_files=paths, mapping_url=str(names))
    if virtual is None:
        return dict(compute_content_hashes(spec, default_virtual_package_repodata()))
    packages.write_text(json.dumps(virtual_package_specification(virtual)))
    return dict(compute_content_hashes(spec, virtual_package_repo_from_specification(packages)))


def declared(spec: EnvironmentSpec) -> dict[str, dict[str, str]]:
    return {platform.platform: dict(platform.virtual_packages) for platform in with_virtual_packages(spec).platforms}


FILES = st.tuples(
    st.lists(st.sampled_from(CONDA), min_size=1, max_size=5),
    st.lists(st.sampled_from(PIP), max_size=4),
    st.sampled_from(["main", "dev"]),
)


@given(
    st.sampled_from(CHANNELS),
    st.sampled_from([[], ["https://u.example/simple"]]),
    st.lists(FILES, min_size=1, max_size=2),
    st.booleans(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_our_hash_is_theirs(
    channels: list[str], indexes: list[str], files: list[tuple[list[str], list[str], str]], is_default: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch, f"environment{number}.yml") for number in range(len(files))]
        for path, (conda, pip, category) in zip(paths, files):
            path.write_text(source(channels, indexes, conda, pip, category))
        spec = read_spec(paths)
        virtual = None if is_default else declared(spec)
        assert content_hashes(spec, virtual) == theirs(paths, virtual)


VERSIONS = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,3}(a1|rc2|post1)?(\.?\*)?", fullmatch=True)
OPERATORS = st.sampled_from(["", "=", "==", ">=", "<=", "<", ">", "!=", "~="])
RANGES = st.recursive(
    st.builds(lambda operator, version: operator + version, OPERATORS, VERSIONS),
    lambda inner: st.builds(
        lambda left, sign, right, bracket: f"({left}{sign}{right})" if bracket else f"{left}{sign}{right}",
        inner, st.sampled_from([",", "|", ", ", " ,", "| "]), inner, st.booleans(),
    ),
    max_leaves=4,
)  # fmt: skip
PREFIXES = [
    "", "conda-forge::", "https://conda.anaconda.org/pytorch::", "http://127.0.0.1:8900/a/b::", "defaults::",
    "pkgs/main::", "conda-forge/linux-64::", "conda-forge/label/dev::", "file:///x/y::", "http://h.example/t/tk/c::",
]  # fmt: skip
BUILDS = ["", "=py39_0", " py39_0", "=py39*", "=*_cuda", "=0"]
BRACKETS = ["", "[version='>=1.2,<3']", "[build=py39_0]", "[channel=pytorch]", "[subdir=linux-64]", "[version='1|2*']"]


@given(*map(st.sampled_from, (PREFIXES, ["NumPy", "a-b_c.d"])), RANGES, *map(st.sampled_from, (BUILDS, BRACKETS)))
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_match_spec_has_the_parts_that_conda_finds(
    prefix: str, name: str, version: str, build: str, brackets: str
) -> None:
    from conda_lock.src_parser.conda_common import conda_spec_to_versioned_dep

    text = f"{prefix}{name} {version}{build}{brackets}"
    try:
        expected = conda_spec_to_versioned_dep(text, "main")
    except Exception:  # no match spec: `envtool lock` refuses it before anything is hashed
        return
    found = parse(text)
    assert found == (expected.name, expected.version or None, expected.build, expected.conda_channel)


def test_what_conda_lock_cannot_read_still_changes_the_hash(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six\n")
    path = tmp_path / "environment.yml"
    path.write_text(source(["conda-forge"], [], ["zlib"], ["-r more.txt", "--pre"], "main"))
    virtual: dict[str, dict[str, str]] = {each: {} for each in PLATFORMS}
    before = content_hashes(read_spec([path]), virtual)
    (tmp_path / "more.txt").write_text("six>=1.16\n")
    after = content_hashes(read_spec([path]), virtual)
    assert all(before[each] != after[each] for each in PLATFORMS)


def test_the_second_judge_of_ci_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text(source(["conda-forge"], [], CONDA[:4], PIP[:2], "main"))
    spec = read_spec([path])
    hashes = content_hashes(spec, declared(spec))
    lockfile = Lockfile((), ("conda-forge",), tuple(sorted(PLATFORMS)), ("environment.yml",), hashes)
    assert conda_lock_hashes(lockfile, spec) == hashes


def test_locking_imports_nothing_of_conda_lock() -> None:
    code = "import sys, envtool.solve.lock; print([each for each in sys.modules if each.startswith('conda_lock')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
