"""Trees of files as kernels show them; and what this kernel shows."""

from __future__ import annotations

import pytest

from serve.errors import MemoryShortError
from serve.system.resources import Available, read_available, require_memory

MEBIBYTE = 1024 * 1024
MEMINFO = "MemTotal:       24684096 kB\nMemAvailable:      10240 kB\nHugePages_Total:       0\n"


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "proc/meminfo", MEMINFO)
    return tmp_path


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def group_v2(root, path, limit, current, cache=0):
    place = f"sys/fs/cgroup/{path}"
    write(root, f"{place}/memory.max", f"{limit}\n")
    write(root, f"{place}/memory.current", f"{current}\n")
    write(root, f"{place}/memory.stat", f"anon 5\ninactive_file {cache}\n")


def test_without_groups_the_kernels_own_estimate_holds(root):
    assert read_available(root) == Available(10 * MEBIBYTE, "MemAvailable")


def test_a_group_of_version_2_limits_those_below(root):
    write(root, "proc/self/cgroup", "0::/app/worker\n")
    group_v2(root, "app/worker", "max", 900)
    group_v2(root, "app", 1000, 900, cache=50)
    assert read_available(root) == Available(150, "app/memory.max")
    group_v2(root, "app/worker", 940, 900)
    assert read_available(root) == Available(40, "worker/memory.max")


def test_a_group_of_version_1(root):
    write(root, "proc/self/cgroup", "5:cpu:/\n4:memory:/app\n0::/\n")
    place = "sys/fs/cgroup/memory/app"
    write(root, f"{place}/memory.limit_in_bytes", "1000\n")
    write(root, f"{place}/memory.usage_in_bytes", "2000\n")
    write(root, f"{place}/memory.stat", "total_inactive_file 500\n")
    assert read_available(root) == Available(0, "app/memory.limit_in_bytes")


def test_inside_a_container_the_mount_itself_is_the_group(root):
    write(root, "proc/self/cgroup", "0::/docker/of/the/host\n")
    group_v2(root, ".", 700, 600)
    assert read_available(root) == Available(100, "cgroup/memory.max")


def test_a_system_that_states_nothing(tmp_path):
    assert read_available(tmp_path) is None
    require_memory(10**18, None, "anything", "")


def test_this_system():
    available = read_available()
    assert available is None or 0 < available.size_bytes < 2**50


def test_what_does_not_fit_is_refused_with_both_numbers():
    require_memory(5, Available(5, "here"), "it", "")
    with pytest.raises(MemoryShortError, match=r"memory for it: expected 3\.0 MiB, found 2\.0 MiB \(here\)"):
        require_memory(3 * MEBIBYTE, Available(2 * MEBIBYTE, "here"), "it", "")
