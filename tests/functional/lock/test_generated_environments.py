"""Environment files generated over everything that one may hold, locked, and compared with py-rattler's own solve.

What a file means is known here from how it was made: nothing of envtool reads it for the oracle.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rattler
from rattler.networking import Client, MirrorMiddleware

from envtool.cli import cli
from envtool.errors import EnvtoolError
from envtool.lockfile.conda_lock_v1 import read_lockfile
from tests.functional.lock.conftest import EXTRACT
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.package_index import PackageIndex
from tests.support.repodata_server import CANONICAL, serving, variable

FORGE = CANONICAL["conda-forge"]
PLATFORMS = ("linux-64", "linux-aarch64", "osx-arm64")
SELECTORS = {
    "linux64": {"linux-64"}, "linux": {"linux-64", "linux-aarch64"}, "osx": {"osx-arm64"}, "aarch64": {"linux-aarch64"},
    "arm64": {"osx-arm64"}, "unix": set(PLATFORMS), "not osx": {"linux-64", "linux-aarch64"}, "win": set(),
    "linux and not aarch64": {"linux-64"}, "osx or (linux and x86_64)": {"linux-64", "osx-arm64"},
}  # fmt: skip
VERSIONS = {
    "flask": ["2.3.2", "3.0.3", "3.1.3"], "click": ["8.1.7", "8.1.8", "8.4.2"], "jinja2": ["3.1.4", "3.1.6"],
    "werkzeug": ["2.3.6", "3.0.3", "3.1.8"], "numpy": ["1.26.4", "2.0.2"], "pip": ["25.2", "26.2.1"],
    "markupsafe": ["3.0.2", "3.0.3"], "wheel": ["0.45.1"], "setuptools": ["80.9.0"],
}  # fmt: skip
# As it is written, and as the oracle takes it: the name, and a version constraint.
FORMS = [
    ("{n}", ""), ("{n}={v}", "={v}"), ("{n} =={v}", "=={v}"), ("{n} {v}", "=={v}"), ("{n}>={v}", ">={v}"),
    ("{n} >={v}, <99", ">={v},<99"), ("{n}[version='>={v}']", ">={v}"), ("{n}={v}=*", "={v}"), ("{N}={v}", "={v}"),
    ("conda-forge::{n}", ""), ("conda-forge::{n}>={v}", ">={v}"), ("{n}[channel=conda-forge,version='{v}']", "=={v}"),
    (FORGE.rstrip("/") + "::{n}={v}", "={v}"), ("{n} !={v}", "!={v}"), ("{n}={v}|>99", "={v}|>99"),
    ("{n}<={v}", "<={v}"), ("{n}={v}.*", "={v}"),
    ("{n} {v}.*", "={v}"), ("{n} ~={v}", "~={v}"), ("  {n}   {v}  ", "=={v}"),
]  # fmt: skip


@dataclass
class Case:
    """Files with text, and what they ask for on each platform."""

    files: dict[str, str] = field(default_factory=dict)
    conda: dict[str, list[str]] = field(default_factory=dict)
    pip: dict[str, dict[str, str]] = field(default_factory=dict)
    virtual: dict[str, dict[str, str]] = field(default_factory=dict)


def generate(seed: int, hashes: dict[str, str]) -> Case:
    roll, case = random.Random(seed), Case()
    platforms = roll.sample(PLATFORMS, roll.choice([1, 1, 2, 3]))
    names = [name for name in VERSIONS if name != "pip"]
    chosen = roll.sample(names, roll.randint(1, 4))
    case.conda = {platform: [] for platform in platforms}
    case.pip = {each: {} for each in platforms}
    declared = {"__glibc": "2.31", "__linux": "5.10", "__unix": "0", "__archspec": "1", "__osx": "13.0"}
    case.virtual = dict.fromkeys(platforms, declared)
    python = roll.choice(["3.9", "3.12"])
    lines = [_line(roll, case, "python", python, ("{n}={v}", "={v}"))]
    dev: list[str] = []
    for name in chosen:
        target = dev if roll.random() < 0.2 else lines
        target.append(_line(roll, case, name, roll.choice(VERSIONS[name]), roll.choice(FORMS), may_select=True))
    roll.shuffle(lines)
    head = [f"name: env{seed}"] if roll.random() < 0.5 else []
    forge = roll.choice(["conda-forge", FORGE, FORGE.rstrip("/")])
    head.append(
        roll.choice([f"channels: [{forge}]", f"channels:\n  - {forge}\n  - nodefaults", f"channels: ['{forge}']"])
    )
    head.append(f"platforms: [{', '.join(platforms)}]")
    if roll.random() < 0.3:
        head.append("variables:\n  A: 1\n  B: 'a $b `c`'\n  C: true")
    if roll.random() < 0.2:
        head.append("x-notes: &n {ignored: true}\nprefix: /somewhere/else")
    if roll.random() < 0.3:
        lines.append(_pip_section(roll, case, hashes))
    virtual = "".join(
        f"  {each}: {{__glibc: '2.31', __linux: '5.10', __archspec: '1 x'}}\n"
        if each.startswith("linux")
        else f"  {each}: {{__osx: '13.0', __archspec: '1 x'}}\n"
        for each in platforms
    )
    body = f"dependencies:\n{''.join(lines)}virtual-packages:\n{virtual}"
    case.files["environment.yml"] = "\n".join(head) + f"\n{body}"
    if dev:
        case.files["dev.yml"] = f"channels: [{forge}]\ncategory: dev\ndependencies:\n{''.join(dev)}"
    return case


def _line(
    roll: random.Random, case: Case, name: str, version: str, form: tuple[str, str], may_select: bool = False
) -> str:
    written, constraint = (each.format(n=name, N=name.capitalize(), v=version) for each in form)
    selector = roll.choice(list(SELECTORS)) if may_select and roll.random() < 0.3 else None
    for platform, specs in case.conda.items():
        if selector is None or platform in SELECTORS[selector]:
            specs.append(f"{name} {constraint}".strip())
    return f"  - {chr(34)}{written}{chr(34)}" + (f"  # [{selector}]" if selector else "") + "\n"


def _pip_section(roll: random.Random, case: Case, hashes: dict[str, str]) -> str:
    line, expected = roll.choice(
        [
            ("greeting", {"greeting": "2.0", "tongue": "1.0"}), ("greeting==1.0", {"greeting": "1.0", "tongue": "1.0"}),
            ("greeting<2 ; python_version >= '3.6'", {"greeting": "1.0", "tongue": "1.0"}),
            ("tongue ; sys_platform == 'darwin'", {"darwin tongue": "1.0"}), ("greeting[loud]>=1", {"greeting": "2.0",
             "tongue": "1.0", "horn": "1.0"}), (f"tongue==1.0 --hash={hashes['tongue']}", {"tongue": "1.0"}),
            ("-c limits.txt\n      - Greeting", {"greeting": "1.0", "tongue": "1.0"}),
            ("-r more.txt", {"tongue": "1.0", "horn": "1.0"}),
        ]
    )  # fmt: skip
    case.files["limits.txt"] = "greeting<2\n"
    case.files["more.txt"] = "tongue\nhorn  # loud\n"
    for platform in case.pip:
        for name, version in expected.items():
            if not name.startswith("darwin ") or platform.startswith("osx"):
                case.pip[platform][name.rpartition(" ")[2]] = version
        if not any(each.split()[0] == "pip" for each in case.conda[platform]):
            case.conda[platform].append("pip")
    return f"  - pip:\n      - {line}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The URL of the records, that of an index, and the hash of each of its wheels."""
    with serving(EXTRACT) as base, MirrorSimulator() as mirror:
        index = PackageIndex(mirror, tmp_path_factory.mktemp("index"))
        more = "Requires-Dist: horn ; extra == 'loud'\nProvides-Extra: loud\n"
        for version in ("1.0", "2.0"):
            index.add("greeting", version, ["tongue"], more=more)
        hashes = {
            name: "sha256:" + hashlib.sha256(index.add(name)[0].read_bytes()).hexdigest() for name in ("tongue", "horn")
        }
        yield base, index.url, hashes


def solved(base: str, place: Path, case: Case, platform: str) -> set[tuple[str, str, str]] | None:
    """What py-rattler chooses; None where nothing satisfies the specs."""
    client = Client([MirrorMiddleware({FORGE: [f"{base}/conda-forge/"]})])
    build = getattr(rattler, "BuildString", str)
    ours = ("__unix", "__archspec", *(("__osx",) if platform.startswith("osx") else ("__glibc", "__linux")))
    virtual = [
        rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version), build("0"))
        for name, version in case.virtual[platform].items()
        if name in ours
    ]

    async def solve() -> list[rattler.RepoDataRecord]:
        return await rattler.solve(
            sources=[FORGE.rstrip("/")], specs=[rattler.MatchSpec(each) for each in case.conda[platform]],
            platforms=[platform, "noarch"], virtual_packages=virtual,
            gateway=rattler.Gateway(cache_dir=place / "oracle", client=client),
        )  # fmt: skip

    try:
        return {(each.name.normalized, str(each.version), str(each.build)) for each in asyncio.run(solve())}
    except rattler.exceptions.SolverError:
        return None


def check(seed: int, place: Path, world: tuple[str, str, dict[str, str]]) -> bool:
    """Lock one case and compare it; whether it could be satisfied."""
    base, _, hashes = world
    case = generate(seed, hashes)
    directory = place / str(seed)
    directory.mkdir()
    for name, text in case.files.items():
        (directory / name).write_text(text)
    sources = [
        part for name in ("environment.yml", "dev.yml") if name in case.files for part in ("-f", directory / name)
    ]
    arguments = ["lock", *map(str, sources), "-o", str(directory / "conda-lock.yml")]
    expected = {each: solved(base, place, case, each) for each in case.conda}
    shown = f"seed {seed}\n{case.files}"
    try:
        cli(arguments, standalone_mode=False)
    except EnvtoolError as error:
        if None not in expected.values():
            pytest.fail(f"{shown}\n{error.message}")
        return False
    assert None not in expected.values(), shown
    lockfile = read_lockfile(directory / "conda-lock.yml")
    for platform, wanted in expected.items():
        packages = [package for package in lockfile.packages if package.platform == platform]
        found = {(each.name, each.version, each.build_string) for each in packages if each.manager == "conda"}
        assert found == wanted, f"{shown}\n{platform}"
        wheels = {each.name: each.version for each in packages if each.manager == "pip"}
        assert wheels == case.pip[platform], f"{shown}\n{platform}"
    before = (directory / "conda-lock.yml").read_bytes()
    cli(arguments, standalone_mode=False)
    assert (directory / "conda-lock.yml").read_bytes() == before, shown
    assert cli(["lock", "--check", *arguments[1:]], standalone_mode=False) in (0, None), shown
    return True


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: tuple[str, str, dict[str, str]]) -> None:
    values = {"ENVTOOL_HOME": str(tmp_path / "home"), "ENVTOOL_MIRRORS": variable(world[0], ["conda-forge"])}
    values |= {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": world[1]}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("machine")
def test_some_of_them(tmp_path: Path, world: tuple[str, str, dict[str, str]]) -> None:
    assert sum(check(seed, tmp_path, world) for seed in range(12)) >= 4


@pytest.mark.nightly
@pytest.mark.usefixtures("machine")
def test_very_many(tmp_path: Path, world: tuple[str, str, dict[str, str]]) -> None:
    assert sum(check(seed, tmp_path, world) for seed in range(100, 300)) >= 100
