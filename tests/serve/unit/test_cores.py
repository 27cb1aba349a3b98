"""How many cores there are for this process, and what torch may use of them."""

from __future__ import annotations

import os

import pytest

from serve.system.resources import count_cores, threads_of_an_operation

ALLOWED = len(os.sched_getaffinity(0))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "proc" / "self" / "cgroup", tmp_path / "sys" / "fs" / "cgroup"


def test_without_limits_the_process_has_what_it_may_run_on(place, tmp_path):
    assert count_cores(tmp_path) == ALLOWED
    write(place[0], "0::/a/b\n")
    write(place[1] / "a/b/cpu.max", "max 100000\n")
    assert count_cores(tmp_path) == ALLOWED


@pytest.mark.parametrize("where", ["a/b", "a", ""])
def test_a_group_of_version_2_or_one_above_it_limits(place, tmp_path, where):
    write(place[0], "0::/a/b\n")
    write(place[1] / where / "cpu.max", "150000 100000\n")
    assert count_cores(tmp_path) == 1


def test_a_group_of_version_1_limits(place, tmp_path):
    write(place[0], "3:cpu,cpuacct:/a\n2:memory:/a\n")
    write(place[1] / "cpu/a/cpu.cfs_quota_us", "-1\n")
    write(place[1] / "cpu/cpu.cfs_quota_us", "50000\n")
    write(place[1] / "cpu/cpu.cfs_period_us", "100000\n")
    assert count_cores(tmp_path) == 1  # half a core is still one


@pytest.mark.parametrize(
    ("cores", "workers", "stated", "threads"),
    [(8, 2, "", 4), (2, 2, "", 1), (2, 4, "", 1), (7, 2, "", 3), (8, 2, "3", 3), (8, 2, "3,2", 3), (8, 2, "0", 4)],
)
def test_the_cores_are_divided_among_the_workers_unless_the_user_says_otherwise(cores, workers, stated, threads):
    assert threads_of_an_operation(cores, workers, {"OMP_NUM_THREADS": stated} if stated else {}) == threads
