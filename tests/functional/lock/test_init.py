from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_every_template_is_listed_with_what_it_takes(envtool) -> None:
    listed = envtool("init", "--list").stdout
    for name in ("embedded", "conda-forge", "pytorch", "wheels"):
        assert f"{name}: " in listed
    assert "cuda       the CUDA that PyTorch is built for" in listed
    assert "(one of cpu, 11.8, 12.1, 12.4; default: 12.1)" in listed


@pytest.mark.parametrize("name", ["environment.yml", "environment-cpu.yml"])
def test_our_own_environment_equals_its_template_and_its_lock_is_current(envtool, name: str) -> None:
    lock = "conda-lock.yml" if name == "environment.yml" else "cpu-conda-lock.yml"
    assert envtool("init", "--check", "-o", ROOT / name).returncode == 0
    assert envtool("lock", "--check", "-f", ROOT / name, "-o", ROOT / lock).returncode == 0


def test_check_shows_what_was_changed_by_hand(envtool, tmp_path: Path) -> None:
    assert envtool("init", "pytorch", "--set", "cuda=cpu").returncode == 0
    path = tmp_path / "environment.yml"
    assert path.read_text().startswith("# Made by: envtool init pytorch --set cuda=cpu\n")
    assert envtool("init", "--check").returncode == 0
    path.write_text(path.read_text().replace("  - cpuonly\n", "  - cpuonly\n  - scipy\n"))
    answer = envtool("init", "--check")
    assert answer.returncode == 1
    assert "+  - scipy\n" in answer.stdout


def test_check_of_a_file_that_no_template_made(envtool, write) -> None:
    write("channels: [conda-forge]\n")
    answer = envtool("init", "--check")
    assert answer.returncode == 3
    assert "only a file that envtool init wrote can be compared" in answer.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["cuda=10.2"], "cuda of template pytorch: expected one of cpu, 11.8, 12.1, 12.4, found '10.2'"),
        (["colour=red"], "template pytorch has no variable colour"),
    ],
)
def test_values_that_a_template_does_not_take(envtool, settings: list[str], expected: str) -> None:
    answer = envtool("init", "pytorch", *[part for setting in settings for part in ("--set", setting)])
    assert answer.returncode == 3
    assert expected in answer.stderr


def test_a_variable_that_has_to_be_given(envtool) -> None:
    answer = envtool("init", "embedded")
    assert answer.returncode == 3
    assert "template embedded needs channel (the URL that `envtool channel build` prints)" in answer.stderr


def test_a_file_that_says_something_else_is_kept(envtool, write, tmp_path: Path) -> None:
    write("mine\n")
    assert envtool("init", "pytorch").returncode == 3
    assert (tmp_path / "environment.yml").read_text() == "mine\n"
    assert envtool("init", "pytorch", "--force").returncode == 0


def test_defaults_come_with_the_licence_warning(envtool) -> None:
    answer = envtool("init", "pytorch", "--set", "channels=pytorch nvidia defaults")
    assert answer.returncode == 0
    assert "organisations of 200 or more need a paid licence" in answer.stderr
    assert "licence" not in envtool("init", "pytorch", "-o", "other.yml").stderr


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of templates of one's own."""
    directory = tmp_path / "own"
    (directory / "environment").mkdir(parents=True)
    (directory / "variables.yml").write_text("pytorch:\n  description: Ours.\n  variables: {}\n")
    (directory / "environment" / "pytorch.yml.j2").write_text("name: ours\n")
    (directory / "environment" / "bare.yml.j2").write_text("name: {{ name }}\nchannels: [{{ channel }}]\n")
    (directory / "environment" / "broken.yml.j2").write_text("name: a\nchannels:\n  - {{ channel\n")
    return directory


def test_templates_of_ones_own_come_first(envtool, own: Path, tmp_path: Path) -> None:
    assert "pytorch: Ours." in envtool("init", "--list", "--templates", own).stdout
    assert envtool("init", "pytorch", "--templates", own).returncode == 0
    assert (tmp_path / "environment.yml").read_text() == "# Made by: envtool init pytorch\nname: ours\n"


def test_a_template_that_nobody_described_takes_the_names_in_it(envtool, own: Path) -> None:
    answer = envtool("init", "bare", "--templates", own, "--set", "name=x")
    assert answer.returncode == 3
    assert "template bare needs channel" in answer.stderr


def test_an_error_in_a_template_has_its_line(envtool, own: Path) -> None:
    answer = envtool("init", "broken", "--templates", own)
    assert answer.returncode == 3
    assert "broken.yml.j2:3: unexpected" in answer.stderr or "broken.yml.j2:4: unexpected" in answer.stderr


def test_an_undefined_variable_is_named_with_its_line(envtool, own: Path) -> None:
    (own / "environment" / "pytorch.yml.j2").write_text("name: a\nchannels:\n  - {{ chanel }}\n")
    answer = envtool("init", "pytorch", "--templates", own)
    assert answer.returncode == 3
    assert "pytorch.yml.j2:3: 'chanel' is undefined" in answer.stderr


def test_the_cuda_template_locks_from_records(envtool, write, tmp_path: Path) -> None:
    assert envtool("init", "pytorch").returncode == 0
    answer = envtool("lock")
    assert answer.returncode == 0, answer.stderr
