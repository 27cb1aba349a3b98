"""A real OpenSSH server on the loopback interface for whoever runs the tests, and a client that knows it or not."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Servers stand where only administrators look for programs.
SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
_START_S = 20.0
_TRIES = 5
_SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/client.pub
AuthenticationMethods publickey
PermitRootLogin yes
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
SetEnv PATH="{path}"
"""
# Whether a key of the host that is not known is asked about is left as it is: that is envtool's to say. The user is
# another one than the server lets in, so that the one in the URL counts.
_CLIENT = """\
Host *
  User nobody
  IdentityFile {directory}/client
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  GlobalKnownHostsFile /dev/null
"""
_ASKED = """\
#!/bin/sh
echo "$1" >>{directory}/asked
exec sleep 600
"""
_WRAPPER = """\
#!/bin/sh
exec {ssh} -F {directory}/client.conf "$@"
"""


@dataclass(frozen=True)
class SshServer:
    """A server that runs, and the directory of its keys and of its client's."""

    directory: Path
    port: int

    @property
    def url(self) -> str:
        """The start of the URLs of what it has; an absolute path follows."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a user who has its client: `ssh` is in PATH, and a window asks what ssh wants to know."""
        windows = {"SSH_ASKPASS": str(self.directory / "ask"), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
        unset = {"GIT_SSH_COMMAND": "", "SSH_AUTH_SOCK": ""}
        return {"PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}", **unset, **windows}

    @property
    def questions(self) -> str:
        """What the client has asked its user."""
        path = self.directory / "asked"
        return path.read_text() if path.exists() else ""

    def forget_host(self) -> None:
        """From now on the client does not know the server's key."""
        (self.directory / "known_hosts").write_text("")

    def lock_key(self) -> None:
        """From now on the client's key has a passphrase."""
        _keygen("-p", "-P", "", "-N", "a passphrase", "-f", str(self.directory / "client"))


@contextmanager
def ssh_server(directory: Path) -> Iterator[SshServer]:
    """Run a server until the block ends.

    Args:
        directory: Its own, which is there.

    Raises:
        RuntimeError: It does not start; its words are in it.
    """
    for name in ("host", "client"):
        _keygen("-t", "ed25519", "-N", "", "-f", str(directory / name))
    process, port = _start(directory)
    try:
        key = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
        (directory / "client.conf").write_text(_CLIENT.format(directory=directory))
        _script(directory / "ask", _ASKED.format(directory=directory))
        _script(directory / "bin" / "ssh", _WRAPPER.format(directory=directory, ssh=shutil.which("ssh")))
        yield SshServer(directory, port)
    finally:
        process.terminate()
        process.wait()


def _start(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    log, config = directory / "log", directory / "server.conf"
    with suppress(OSError):  # as root it wants this, which only the init system makes
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for _ in range(_TRIES):  # another program may take the port before the server does
        port = _free_port()
        config.write_text(_SERVER.format(directory=directory, port=port, path=os.environ["PATH"]))
        with log.open("wb") as output:
            process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(config)], stderr=output)
        deadline_s = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline_s:
            if f"Server listening on 127.0.0.1 port {port}" in log.read_text():
                return process, port
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if "Address already in use" not in log.read_text():
            break
    raise RuntimeError(f"sshd does not start:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
