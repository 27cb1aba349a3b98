"""The one door to other programs: no shell is ever used, and standard input is never the terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from envtool.errors import ProcessError

_TAIL_LINES = 40


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str = "",
    hint: str | None = None,
) -> str:  # fmt: skip
    """Run a program and return its standard output. Raises ProcessError if it is not found or failed."""
    name = Path(argv[0]).name
    variables = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            list(argv), env={key: value for key, value in variables.items() if value}, cwd=cwd, input=stdin,
            capture_output=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise ProcessError(name, 127, str(error), hint) from error
    if done.returncode != 0:
        raise ProcessError(
            name, done.returncode, "\n".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL_LINES:]), hint
        )
    return done.stdout


class Background:
    """A program that runs beside us until it is stopped. Raises ProcessError if it cannot be run."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    list(argv), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
        except OSError as error:
            raise ProcessError(Path(argv[0]).name, 127, str(error)) from error
        self.pid = self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self, patience_s: float) -> None:
        """Ask it to end, and make it once patience is over."""
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def replace(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become another program: signals and the exit status are its own. Raises ProcessError if it cannot be run."""
    try:
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606 - no shell is what is wanted here
    except OSError as error:
        raise ProcessError(argv[0], 127, str(error), "is it installed in the environment?") from error
