"""The tutorials, followed: the commands of a page typed into one shell, and what the page shows compared."""

from __future__ import annotations

import re
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What stays in the foreground: the page goes on in another terminal.
_STAYS = re.compile(r"(?:gunicorn |serve run |while )(?:(?! & )[\s\S])*$")
# What a person looks at until it is there.
_LOOKS = re.compile(r"(?:curl -s -d|python -m serve (?:status|history))")
_TIMEOUT_S = 900


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page's console blocks, each with the lines that it shows of their output."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for command in re.split(r"(?m)^\$ ", block)[1:]:
            lines = command.rstrip("\n").split("\n")
            last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
            if lines[0].endswith("'EOF'"):
                last = lines.index("EOF")
            found.append(("\n".join(lines[: last + 1]), lines[last + 1 :]))
    return found


def missing(shown: list[str], output: str) -> list[str]:
    """The lines of a page that are no line of an output, in any case of letters; … and times are as they come."""
    lines = [line.rstrip() for line in output.split("\n")]

    def pattern(line: str) -> str:
        parts = re.split(r"(…|[\d.]+(?= ms))", line)
        return "".join(
            re.escape(part) if number % 2 == 0 else ".*" if part == "…" else r"[\d.]+"
            for number, part in enumerate(parts)
        )

    return [line for line in shown if not any(re.fullmatch(pattern(line), each, re.IGNORECASE) for each in lines)]


class Terminal:
    """A shell that commands are typed into.

    Args:
        directory: where it starts; its log is there too.
        env: all of its variables.
        change: makes a command of a page what is typed, for example with other ports.
    """

    def __init__(self, directory: Path, env: Mapping[str, str], change: Callable[[str], str] = str) -> None:
        self._log, self._change = directory / "terminal.log", change
        with self._log.open("wb") as log:
            self._shell = subprocess.Popen(
                ["bash"], cwd=directory, env=dict(env), stdin=-1, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        self._type("trap 'kill $(jobs -p) 2>/dev/null' EXIT")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(60)

    def _type(self, command: str) -> tuple[int, str]:
        assert self._shell.stdin is not None
        mark = f"### {uuid.uuid4()}"
        before = self._log.stat().st_size
        self._shell.stdin.write(f'{command}\necho "{mark} $?"\n')
        self._shell.stdin.flush()
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline and self._shell.poll() is None:
            output = self._log.read_bytes()[before:].decode(errors="replace")  # the last sign may be half there
            if found := re.search(rf"{mark} (\d+)\n", output):
                return int(found[1]), output[: found.start()]
            time.sleep(0.02)
        raise AssertionError((command, self._log.read_text()[-3000:]))

    def type(self, command: str, shown: list[str]) -> str:
        """Type a command of a page, and return its output, in which what the page shows must be."""
        typed = self._change(command)
        if _STAYS.match(command):
            self._type(f"{typed} > background-{time.monotonic_ns()}-{command.split()[0]} 2>&1 &")
            if not command.startswith("while "):
                ready = self._change("http://127.0.0.1:8000/readyz")
                code, output = self._type(f"curl -s -f -o ready --retry 120 --retry-delay 1 --retry-all-errors {ready}")
                assert code == 0, (command, output, self._logs())
            return ""
        deadline = time.monotonic() + 60
        while True:
            code, output = self._type(typed)
            gone = missing(shown, output)
            if not (gone and code == 0 and _LOOKS.match(command) and time.monotonic() < deadline):
                assert (code, gone) == (0, []), (command, gone, self._log.read_text()[-5000:] + self._logs())
                return output
            time.sleep(0.5)

    def _logs(self) -> str:
        return "".join(f"\n== {path}\n{path.read_text()[-3000:]}" for path in self._log.parent.glob("*/*.log"))

    def follow(self, page: Path) -> list[tuple[str, str]]:
        """Type all commands of a page, and return each with its output."""
        return [(command, self.type(command, shown)) for command, shown in commands(page)]
