"""`envtool mirror` and a create's choice of mirrors, against simulated mirrors and in a home of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.artifacts import download
from envtool.console import ProgressDisplay
from envtool.errors import LockfileError
from envtool.fetch.archive_cache import Cache
from envtool.fetch.failover import Timeouts
from envtool.lockfile.conda_lock_v1 import LockedPackage
from envtool.mirrors import selection as mirror_choice
from envtool.mirrors.mirrors import Mirrors
from tests.support import mirror_answers as say
from tests.support import mirror_simulator as sim
from tests.support.mirror_simulator import MirrorSimulator

CONTENT = random.Random(3).randbytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPODATA = b'{"packages": {}}' * 1000
ARCHIVE = "linux-64/a-1.0-0.conda"
WHEEL = f"ab/cd/{'e' * 60}/w-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PIP_CONFIG_FILE", "UV_CONFIG_FILE", "CONDARC", "XDG_CONFIG_HOME", "ENVTOOL_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ENVTOOL_HOME", str(tmp_path / "envtool"))
    monkeypatch.setenv("ENVTOOL_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "envtool").mkdir()
    return tmp_path


def envtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "envtool", "mirror", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def fill(mirror: MirrorSimulator, channel: str = "cf/") -> str:
    mirror.put(f"{channel}linux-64/repodata.json.zst", REPODATA)
    mirror.put(f"{channel}{ARCHIVE}", CONTENT)
    mirror.put(f"packages/{WHEEL}", CONTENT)
    return mirror.url + channel


def configure(home: Path, origin: str, use: str = "", **presets: str) -> None:
    text = use
    for name, url in presets.items():
        base = url.rstrip("/").rpartition("/")[0]
        text += f'[presets.{name}]\npypi = "{base}/simple"\n[presets.{name}.channels]\n"{origin}" = "{url}"\n'
    (home / "envtool" / "config.toml").write_text(text)


def package(url: str, manager: str = "conda", sha256: str | None = SHA256) -> LockedPackage:
    return LockedPackage(manager, "a", "1.0", "linux-64", url, sha256)


def write_lock(path: Path, *urls: str) -> Path:
    entries = "".join(
        f"- name: p{i}\n  version: '1.0'\n  manager: {'pip' if url.endswith('.whl') else 'conda'}\n"
        f"  platform: linux-64\n  dependencies: {{}}\n  url: {url}\n"
        f"  hash:\n    sha256: {SHA256}\n  category: main\n  optional: false\n"
        for i, url in enumerate(urls)
    )
    path.write_text(
        "version: 1\nmetadata:\n  content_hash:\n    linux-64: x\n  channels: []\n  platforms:\n  - linux-64\n"
        f"  sources: []\npackage:\n{entries}"
    )
    return path


def test_probe_measures_ranks_and_remembers(home: Path, mirror: MirrorSimulator, other: MirrorSimulator) -> None:
    with MirrorSimulator() as origin, MirrorSimulator() as lagging:
        url = fill(origin)
        slow, quick = fill(mirror), fill(other)
        mirror.answer("*.conda", then=say.trickle(150_000))
        mirror.answer("*.whl", then=say.status(403))
        lagging.put("cf/linux-64/repodata.json", REPODATA)
        configure(home, url, slow=slow, quick=quick, lagging=lagging.url + "cf/", none=sim.closed_port_url() + "cf/")
        lock = write_lock(home / "conda-lock.yml", url + ARCHIVE, f"{origin.url}packages/{WHEEL}")
        done = envtool("probe", "-f", str(lock), "--json", "--limit", "8")
        shown = envtool("probe", "-f", str(lock), "--limit", "8")
    assert done.returncode == 0, done.stderr
    channels = json.loads(done.stdout)["channels"]
    assert set(channels) == {url, origin.url + "packages/"}
    found = {each["name"]: each for each in channels[url]}
    assert found["quick"]["estimate_s"] < found["slow"]["estimate_s"]
    assert found["lagging"]["reason"] == "lacks a-1.0-0.conda"
    assert found["none"]["reason"].startswith("no connection")
    wheels = {each["name"]: each for each in channels[origin.url + "packages/"]}
    assert wheels["slow"]["reason"] == "HTTP 403 Forbidden"
    assert wheels["quick"]["estimate_s"]
    assert "lacks a-1.0-0.conda" in shown.stdout
    kept = mirror_choice.recall(Cache(home / "cache"))
    assert {each.name for each in kept} >= {"quick", "slow", "origin", "tuna"}


def test_a_channel_that_a_mirror_lacks_is_found_by_its_repodata(home: Path, mirror: MirrorSimulator) -> None:
    with MirrorSimulator() as origin:
        url = fill(origin)
        configure(home, url, empty=mirror.url + "cf/")
        lock = write_lock(home / "conda-lock.yml", url + ARCHIVE)
        done = envtool("probe", "-f", str(lock), "--json")
    found = {each["name"]: each for each in json.loads(done.stdout)["channels"][url]}
    assert found["empty"]["reason"] == "has no linux-64 of this channel"
    assert [request.path for request in mirror.requests] == [
        "cf/linux-64/repodata.json.zst",
        "cf/linux-64/repodata.json",
    ]


def test_probe_ends_in_time_and_says_no_when_a_channel_is_nowhere(home: Path, mirror: MirrorSimulator) -> None:
    url = mirror.url + "cf/"
    mirror.answer("*", then=say.silent())
    lock = write_lock(home / "conda-lock.yml", url + ARCHIVE)
    done = envtool("probe", "-f", str(lock), "--json", "--limit", "1")
    assert done.returncode == 1
    (only,) = json.loads(done.stdout)["channels"][url]
    assert only["estimate_s"] is None
    assert only["reason"] in ("no answer in time", "no answer in 1 s")


def test_create_uses_the_quickest_and_measures_once_a_day(
    home: Path, mirror: MirrorSimulator, other: MirrorSimulator, tmp_path: Path
) -> None:
    with MirrorSimulator() as origin:
        url = fill(origin)
        origin.answer("*", then=say.trickle(100_000))
        mirror.answer("*.conda", then=say.trickle(200_000))
        configure(home, url, '[mirrors]\nuse = "auto"\n', slow=fill(mirror), quick=fill(other))
        cache = Cache(tmp_path / "cache")
        with ProgressDisplay() as display:
            paths = download.fetch_packages([package(url + ARCHIVE)], cache, display)
            assert paths[url + ARCHIVE].read_bytes() == CONTENT
            asked = [len(each.asked(f"cf/{ARCHIVE}")) for each in (mirror, other, origin)]
            assert asked == [1, 2, 1], "one sample from each, then the file from the quickest"
            paths[url + ARCHIVE].unlink()
            download.fetch_packages([package(url + ARCHIVE)], cache, display)
        assert [len(each.asked(f"cf/{ARCHIVE}")) for each in (mirror, other, origin)] == [1, 3, 1]
        old = json.loads((cache.root / "mirrors.json").read_text())
        (cache.root / "mirrors.json").write_text(json.dumps({**old, "measured_at": old["measured_at"] - 90_000}))
        assert mirror_choice.recall(cache) == []


def test_named_mirrors_come_in_their_order_and_the_origin_last_or_never(
    home: Path, mirror: MirrorSimulator, other: MirrorSimulator, cache: Cache, patience: Timeouts
) -> None:
    with MirrorSimulator() as origin:
        url = fill(origin)
        fill(mirror), fill(other)
        for each in (mirror, other):
            each.answer("*", then=say.status(404))
        urls = [url + ARCHIVE, f"{origin.url}packages/{WHEEL}"]
        presets = {"one": mirror.url + "cf/", "two": other.url + "cf/"}
        configure(home, url, '[mirrors]\nuse = ["two", "one"]\n', **presets)
        with ProgressDisplay() as display:
            known = mirror_choice.for_urls(urls, cache, display)
            assert known.for_url(urls[0]) == (f"{other.url}cf/{ARCHIVE}", f"{mirror.url}cf/{ARCHIVE}", urls[0])
            assert known.for_url(urls[1])[0] == f"{other.url}packages/{WHEEL}"
            download.fetch_packages([package(each) for each in urls], cache, display, patience=patience)
            assert len(origin.requests) == 2
            configure(home, url, '[mirrors]\nuse = ["two", "one"]\norigin = "never"\n', **presets)
            known = mirror_choice.for_urls(urls, cache, display)
        assert urls[0] not in known.for_url(urls[0])


def test_every_package_without_a_sha256_is_named(cache: Cache) -> None:
    packages = [package("https://h.example/c/noarch/a.conda", sha256=None), package("https://h.example/x", sha256=None)]
    with ProgressDisplay() as display, pytest.raises(LockfileError) as caught:
        download.fetch_packages(packages, cache, display, mirrors=Mirrors())
    assert len(caught.value.issues) == 2


def test_credentials_reach_the_mirror_and_nothing_else(
    home: Path, mirror: MirrorSimulator, cache: Cache, monkeypatch: pytest.MonkeyPatch, patience: Timeouts
) -> None:
    fill(mirror)
    monkeypatch.setenv("MIRROR_USER", "me")
    monkeypatch.setenv("MIRROR_PASSWORD", "s3cret")
    origin = sim.closed_port_url() + "cf/"
    place = mirror.url.replace("//", "//${MIRROR_USER}:${MIRROR_PASSWORD}@") + "cf/"
    configure(home, origin, '[mirrors]\nuse = "corp"\n', corp=place)
    with ProgressDisplay() as display:
        download.fetch_packages([package(origin + ARCHIVE)], cache, display, patience=patience)
    expected = "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert {request.authorization for request in mirror.requests} == {expected}
    lock = write_lock(home / "conda-lock.yml", origin + ARCHIVE)
    shown = [envtool("list"), envtool("list", "--json"), envtool("probe", "-f", str(lock))]
    assert all("s3cret" not in each.stdout + each.stderr for each in shown)
    written = [path for path in home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert written == []


def test_netrc_lets_requests_in(home: Path, mirror: MirrorSimulator, cache: Cache) -> None:
    url = fill(mirror)
    (home / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    with ProgressDisplay() as display:
        download.fetch_packages([package(url + ARCHIVE)], cache, display, mirrors=Mirrors())
    assert (mirror.requests[0].authorization or "").startswith("Basic ")


def test_use_shows_writes_and_takes_back_byte_for_byte(home: Path) -> None:
    before = {
        home / ".condarc": "# mine\nchannels:\n- conda-forge # x\n",
        home / ".config/pip/pip.conf": "[global]\r\ntimeout = 3\r\n",
        home / "envtool/config.toml": "# c\n",
    }
    for path, text in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (home / ".config/pip/pip.conf").chmod(0o600)
    real = home / "dotfiles"
    real.mkdir()
    (home / ".condarc").rename(real / "condarc")
    (home / ".condarc").symlink_to(real / "condarc")
    diff = envtool("use", "tuna", "--conda", "--pip", "--uv", "--dry-run")
    assert diff.returncode == 0, diff.stderr
    assert "+index-url = https://pypi.tuna" in diff.stdout
    assert all(path.read_bytes() == text.encode() for path, text in before.items())
    assert not (home / "envtool/mirror-use").exists()
    assert envtool("use", "tuna", "--conda", "--pip", "--uv").returncode == 0
    assert "tuna" in (real / "condarc").read_text()
    assert (home / ".condarc").is_symlink()
    assert (home / ".config/uv/uv.toml").exists()
    assert oct((home / ".config/pip/pip.conf").stat().st_mode)[-3:] == "600"
    assert "tuna" in envtool("list").stderr
    assert envtool("use", "sjtu", "--pip").returncode == 0
    assert envtool("use", "--undo").returncode == 0
    assert "tuna" in (home / ".config/pip/pip.conf").read_text()
    assert envtool("use", "--undo").returncode == 0
    assert all(path.read_bytes() == text.encode() for path, text in before.items())
    assert not (home / ".config/uv/uv.toml").exists()
    assert envtool("use", "--undo").returncode == 3


def test_other_tools_take_each_thing_from_the_first_preset_that_has_it(home: Path) -> None:
    done = envtool("use", "sustech", "tuna", "sjtu", "--conda", "--pip", "--uv", "--dry-run")
    assert done.returncode == 0, done.stderr
    added = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("+")]
    assert any(line.startswith("nvidia: ") and "sustech" in line for line in added)
    assert any(line.startswith("conda-forge: ") and "tuna" in line for line in added)
    assert "index-url = https://pypi.tuna.tsinghua.edu.cn/simple" in added
    assert not any("sjtu" in line for line in added if not line.startswith("use ="))


def test_use_masks_what_is_secret_and_undo_spares_what_was_changed_since(home: Path) -> None:
    pip = home / ".config/pip/pip.conf"
    pip.parent.mkdir(parents=True)
    pip.write_text("[global]\nindex-url = https://me:s3cret@corp.example/simple\n")
    diff = envtool("use", "tuna", "--pip", "--dry-run")
    assert "-index-url = https://***@corp.example/simple" in diff.stdout
    assert envtool("use", "tuna", "--pip").returncode == 0
    kept = [path for path in home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert all(each.stat().st_mode & 0o077 == 0 and each.parent.stat().st_mode & 0o077 == 0 for each in kept)
    pip.write_text(pip.read_text() + "timeout = 3\n")
    refused = envtool("use", "--undo")
    assert refused.returncode == 3
    assert f"{pip} was changed since" in refused.stderr
    assert "timeout = 3" in pip.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a NAME, auto or off; or --undo alone"),
        (["tuna", "--undo"], 2, "give a NAME, auto or off; or --undo alone"),
        (["nope"], 3, "there is no mirror preset 'nope'"),
        (["auto", "tuna"], 3, "auto and off stand alone"),
        (["auto", "--pip"], 3, "nothing was measured during the last day"),
        (["sustech", "--pip"], 3, "sustech has no package index for pip"),
    ],
)
def test_use_says_what_is_wrong(arguments: list[str], code: int, message: str, home: Path) -> None:
    done = envtool("use", *arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert list((home / "envtool").iterdir()) == []


def test_our_modules_do_not_need_a_terminal_or_a_config(home: Path) -> None:
    (home / "envtool").rmdir()
    assert envtool("list").returncode == 0
