"""How a worker's process ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

WORKER = """
import atexit, sys, threading
from serve.workers.process_lifecycle import ProcessExit

leaving = ProcessExit()
{before}
atexit.register(print, "what came later is done")
try:
    sys.exit({status})
finally:
    {prepare}
"""
# On Python 3.9, in about one of fifteen ends the interpreter waits for ever for a thread that has ended.
CONTENTION = """
    def spin():
        while True:
            pass

    sys.setswitchinterval(1e-6)
    for _ in range(4):
        threading.Thread(target=spin, daemon=True).start()
"""

FORK = """
        import os
        leaving.prepare()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            atexit.unregister(print)
            sys.exit(7)
        status = os.waitpid(child, 0)[1]
        atexit.unregister(print)
        atexit.register(print, f"the child ended with {os.WEXITSTATUS(status)}")
        atexit.register(print, "what came later is done")
"""


def end(status="0", prepare="leaving.prepare()", before="pass", timeout_s=60):
    code = WORKER.format(
        status=status,
        prepare=textwrap.indent(textwrap.dedent(prepare), 4 * " ").strip(),
        before=textwrap.dedent(before),
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout_s)


@pytest.mark.parametrize(("stated", "seen"), [("0", 0), ("None", 0), ("3", 3), ("-1", 255), ("'a reason'", 1)])
def test_the_exit_functions_run_and_the_status_stays(stated, seen):
    ended = end(stated)
    assert (ended.returncode, ended.stdout) == (seen, "what came later is done\n")


def test_a_process_that_was_forked_has_an_end_of_its_own():
    ended = end(prepare=FORK)
    assert (ended.returncode, ended.stdout) == (0, "what came later is done\nthe child ended with 7\n")


def test_threads_that_want_the_interpreter_lock_cannot_keep_the_process():
    for _ in range(60):
        assert end(before=CONTENTION).returncode == 0
