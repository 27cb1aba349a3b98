"""A machine that runs systemd: the real one as the first process of namespaces of its own.

It shares this machine's files, network and kernel, and has its own processes, mounts and control groups. It knows the
units that are given to it and no other, so that nothing of this machine is started, cleaned or mounted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

UNITS = Path("/run/units")
_SYSTEMD = Path("/lib/systemd/systemd")
_PATIENCE_S = 60
# Sets up what a container manager would: private mounts, a /run of its own, its part of the control groups.
_BOOT = f"""
mount --make-rprivate /
umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /srv
mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys
mkdir -p {UNITS} /run/generators
for name in boot sysinit basic shutdown network-online multi-user; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > {UNITS}/$name.target
done
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH={UNITS} \
    SYSTEMD_GENERATOR_PATH=/run/generators {_SYSTEMD} --system --unit=boot.target --log-target=console --show-status=no
"""


def why_not() -> str | None:
    """Why no such machine can be had here; None when one can."""
    if os.geteuid() != 0:
        return "only root can have systemd as the first process of a namespace"
    missing = [each for each in ("unshare", "nsenter", "systemctl", "runuser") if not shutil.which(each)]
    if missing or not _SYSTEMD.exists():
        return f"{', '.join(missing) or _SYSTEMD} is not on this machine"
    return None if _control_groups() else "this machine has no control groups of version 2"


def _control_groups() -> Path | None:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


class Machine:
    """One that runs until the block ends; its log is in a directory."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "systemd.log"
        self._group = (_control_groups() or Path("/")) / f"envtool-test-{os.getpid()}"

    def __enter__(self) -> Machine:
        self._group.mkdir()
        spaces = ["--fork", "--pid", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *spaces, "sh", "-ec", _BOOT], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: (self._group / "cgroup.procs").write_text("0") and None,
            )  # fmt: skip
        try:
            self._wait_for_systemd()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + _PATIENCE_S
        while self._group.exists() and time.monotonic() < deadline:
            # Groups are removed from the innermost on, once the kernel has buried their processes.
            for path in [*sorted(self._group.rglob("*/"), reverse=True), self._group]:
                with contextlib.suppress(OSError):
                    path.rmdir()
            time.sleep(0.05)

    def _wait_for_systemd(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(subprocess.CalledProcessError, OSError, IndexError):
                if self.systemctl("is-active", "boot.target").strip() == "active":
                    return
            time.sleep(0.1)
        raise RuntimeError(f"systemd does not come up:\n{self.log.read_text()}")

    @property
    def first(self) -> int:
        """The number of systemd as this machine's own processes see it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def argv(self, *argv: object, user: str | None = None, env: Mapping[str, str] | None = None) -> Sequence[str]:
        """A command line that runs a program inside."""
        settings = ["env", *(f"{name}={value}" for name, value in (env or {}).items())]
        become = ["runuser", "-u", user, "--"] if user else []
        enter = ["nsenter", "-t", str(self.first), "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"]
        return [*enter, *become, *settings, *(str(argument) for argument in argv)]

    def run(self, *argv: object, user: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a program inside; it has to succeed. Returns what it printed."""
        return subprocess.run(
            self.argv(*argv, user=user, env=env), stdout=subprocess.PIPE, text=True, check=True, timeout=300, cwd="/"
        ).stdout

    def systemctl(self, *arguments: object) -> str:
        """Ask systemd for something; it has to succeed."""
        return self.run("systemctl", *arguments)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        said = self.systemctl("show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in said.splitlines())

    def write(self, path: Path, text: str) -> None:
        """Write a file inside."""
        subprocess.run(self.argv("tee", path), input=text, text=True, stdout=subprocess.DEVNULL, check=True, cwd="/")

    @contextlib.contextmanager
    def unit(self, name: str, text: str, dropin: str) -> Iterator[None]:
        """A unit of its own, with settings that the test needs on top."""
        self.run("mkdir", "-p", UNITS / f"{name}.d")
        self.write(UNITS / name, text)
        self.write(UNITS / f"{name}.d" / "test.conf", dropin)
        self.systemctl("daemon-reload")
        yield
        self.systemctl("stop", name)
