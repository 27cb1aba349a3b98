from __future__ import annotations

from envtool.fetch.failover import HostHealth, Place, TransferError

HERE, THERE = Place("https://u:p@h.example/a"), Place("https://other.example/a")


def test_a_host_that_was_silent_is_doubtful_for_other_files_until_it_answers() -> None:
    hosts = HostHealth()
    hosts.note("https://h.example/b", TransferError("silent", is_transient=True, is_down=True), 100.0)
    here, there = hosts.inform([HERE, THERE])
    assert (here.is_doubtful, there.is_doubtful) == (True, False)
    hosts.note("https://h.example/c", None, 101.0)
    assert not hosts.inform([HERE])[0].is_doubtful


def test_a_host_that_asked_to_wait_is_left_alone_for_every_file() -> None:
    hosts = HostHealth()
    hosts.note("https://h.example/b", TransferError("429", is_transient=True, retry_after_s=30.0), 100.0)
    here, there = hosts.inform([HERE, THERE])
    assert (here.not_before_s, there.not_before_s) == (130.0, 0.0)


def test_a_missing_file_says_nothing_about_the_host() -> None:
    hosts = HostHealth()
    hosts.note("https://h.example/b", TransferError("404", is_transient=False), 100.0)
    assert hosts.inform([HERE]) == (HERE,)
