from __future__ import annotations

from pathlib import Path

import pytest

from serve.source.file_events import find_type, is_remote, type_of

# Lines as proc_pid_mountinfo(5) describes them; the last one covers the one before it.
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:21 / /proc rw - proc proc rw
40 22 0:40 / /mnt/share rw shared:1 master:2 - nfs4 server:/x rw,vers=4.2
41 22 0:41 / /mnt/with\\040space rw - cifs //server/x rw
42 22 0:42 / /mnt/over rw - ext4 /dev/vdb rw
43 22 0:43 / /mnt/over rw - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "fstype"),
    [
        ("/", "ext4"),
        ("/mnt", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/checkpoints", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/over/x", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_counts(path, fstype):
    assert find_type(MOUNTS, path) == fstype


def test_what_is_no_mount_is_passed_over():
    assert find_type("nonsense\n- -\n", "/x") is None


@pytest.mark.parametrize("fstype", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuseblk", "9p", "ceph"])
def test_others_may_write_there(fstype):
    assert is_remote(fstype)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", None])
def test_nobody_else_writes_there(fstype):
    assert not is_remote(fstype)


def test_this_machine():
    assert type_of(Path("/proc")) == "proc"
