"""The command table: summaries, defaults in help, exit codes, imports and typos."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from envtool.__main__ import BUG, INTERRUPTED, KNOWN_ERROR
from envtool.cli import COMMANDS, UnknownCommandError, cli
from envtool.cli.ci import Verdict


def commands(group: click.Group = cli, path: str = "envtool") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL)
def test_a_summary_has_at_most_60_characters(path: str) -> None:
    _, name, *rest = path.split()
    summary = ALL[path].get_short_help_str(1000) if rest else COMMANDS[name][1]
    assert len(summary) <= 60, summary
    assert summary.endswith("."), summary


@pytest.mark.parametrize("path", ALL)
def test_a_default_is_set_off_by_two_blanks(path: str) -> None:
    for parameter in ALL[path].params:
        help_text = getattr(parameter, "help", None) or ""
        assert "[default" not in help_text or "  [default: " in help_text, parameter.name


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(option: str) -> None:
    script = (
        "import sys; from envtool.cli import cli\n"
        f"cli.main(['{option}'], standalone_mode=False)\n"
        "print(*(name for name in sys.modules if name.startswith('envtool.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {place.partition(":")[0] for place, _ in COMMANDS.values()}
    assert len(loaded) < 10


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("audit", "asyncio"),
        ("channel", "jinja2"),
        ("deploy", "jinja2"),
        ("diff", "envtool.solve.lock"),
        ("doctor", "asyncio ruamel.yaml tomlkit"),
        ("graph", "asyncio ssl"),
        ("image", "asyncio"),
        ("init", "jinja2"),
        ("mirror", "ruamel.yaml tomlkit"),
    ],
)
def test_a_command_imports_what_is_slow_when_it_needs_it(module: str, slow: str) -> None:
    script = f"import sys, envtool.cli.{module}\nprint(*(name for name in {slow.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "command",
    [
        f"create -p {'n' * 300}", f"verify -p {'n' * 300}", "digest -p loop", "verify -p loop/x",
        f"init conda-forge -o {'n' * 300}", "init conda-forge -o file/x", "init conda-forge -o missing/x",
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_is_an_error_with_a_hint(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    argv = [sys.executable, "-m", "envtool", *command.split()]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == KNOWN_ERROR, done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("buffering", [[], ["-u"]])
def test_an_answer_that_does_not_arrive_is_an_error(buffering: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, *buffering, "-m", "envtool", "--version"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (KNOWN_ERROR, "")


def test_a_device_or_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    argv = [sys.executable, "-m", "envtool", "init", "--from", "requirements.txt", "-o"]
    (tmp_path / "requirements.txt").write_text("six\n")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        subprocess.run([*argv, "pipe"], cwd=tmp_path, check=True)
        assert "platforms:" in reader.communicate(timeout=60)[0]
    assert (tmp_path / "pipe").is_fifo()
    shown = subprocess.run([*argv, "/dev/fd/1"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "platforms:" in shown.stdout


def test_a_server_without_its_extra_is_an_error_with_a_hint(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['werkzeug'] = None; from envtool import __main__ as program\n"
        "sys.argv = ['envtool', 'channel', 'serve', '.']; program.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == KNOWN_ERROR, done.stderr
    assert "hint: install envserve with its extra [web]" in done.stderr


def test_the_help_lists_every_exit_code() -> None:
    listed = set((cli.epilog or "").replace(",", " ").split())
    codes = {0, 1, 2, 3, BUG, INTERRUPTED, *(verdict.exit_code for verdict in Verdict)}
    assert {str(code) for code in codes} <= listed


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["lcok"], "did you mean envtool lock?"),
        (["bundle", "instal"], "did you mean envtool bundle install?"),
        (["deploy", "xyz"], "envtool deploy --help lists the commands"),
    ],
)
def test_a_typo_gets_the_nearest_command(typed: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownCommandError) as caught:
        cli.main(typed, prog_name="envtool", standalone_mode=False)
    assert caught.value.exit_code == 2
    caught.value.show()
    assert capsys.readouterr().err == f"error: unknown command {typed[-1]!r}\nhint: {hint}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        ("envtool", "--version", 0),
        ("envtool", "mirror list", 0),
        ("envtool", "digest -p no/prefix", KNOWN_ERROR),
        ("envtool", "digest -p $(printf 'no\\377prefix')", KNOWN_ERROR),
        ("serve", "settings --no-such", 2),
        ("serve", "verify no-such-file", KNOWN_ERROR),
    ],
)
def test_a_closed_stream_changes_neither_the_exit_code_nor_who_gets_its_number(
    tmp_path: Path, module: str, arguments: str, code: int, closed: str
) -> None:
    log = tmp_path / "log"
    log.touch()
    kept = "" if "2>" in closed else f" 2>{shlex.quote(str(log))}"
    python = shlex.quote(sys.executable)
    done = subprocess.run(["sh", "-c", f"{python} -m {module} {arguments} >/dev/null{kept} {closed}"])
    assert done.returncode == code, log.read_text()
    assert "Traceback" not in log.read_text()


def test_what_a_child_prints_is_in_no_file_of_ours_when_standard_output_was_closed(tmp_path: Path) -> None:
    script = (
        "import envtool.__main__ as m, subprocess, sys; m._open_closed_streams(); file = open('ours', 'w'); "
        "sys.exit(file.fileno() < 3 or subprocess.run(['echo', 'hello']).returncode)"
    )
    argv = ["sh", "-c", f'{shlex.quote(sys.executable)} -c "{script}" >&-']
    assert subprocess.run(argv, cwd=tmp_path).returncode == 0
    assert (tmp_path / "ours").read_bytes() == b""
