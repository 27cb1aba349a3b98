from __future__ import annotations

import pytest

from envtool.mirrors.mirrors import Preset
from envtool.mirrors.selection import Candidate, Reading, by_channel, candidates, rank

FORGE, TORCH = "https://conda.anaconda.org/conda-forge/", "https://conda.anaconda.org/pytorch/"
WHEELS = "https://files.example/packages/"


def reading(name: str, latency_s: float | None, mb_per_s: float | None, served_by: str | None = None) -> Reading:
    rate = None if mb_per_s is None else mb_per_s * 1e6
    return Reading(name, FORGE, f"https://{name}/", latency_s, rate, served_by or name)


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param([], [], id="nothing measured"),
        pytest.param([reading("a", 0.1, 1), reading("b", 0.1, 9)], ["b", "a"], id="the quicker first"),
        pytest.param([reading("a", 0.9, 9), reading("b", 0.1, 9)], ["b", "a"], id="then the sooner"),
        pytest.param([reading("a", 2.0, 90), reading("b", 0.01, 1)], ["a", "b"], id="by the time of an archive"),
        pytest.param([reading("a", None, None), reading("b", 1, 1)], ["b"], id="who did not answer is left out"),
        pytest.param([reading("a", 0.1, None), reading("b", 1, 1)], ["b"], id="who lacks the archive is left out"),
        pytest.param([reading("a", 0.1, 0)], [], id="who sent nothing is left out"),
        pytest.param(
            [reading("a", 0.1, 9), reading("b", 0.1, 8, "a"), reading("c", 0.1, 1)], ["a", "c", "b"],
            id="who only sends on is no fallback",
        ),
    ],
)  # fmt: skip
def test_the_order(readings: list[Reading], expected: list[str]) -> None:
    assert rank(readings) == ({FORGE: tuple(f"https://{name}/" for name in expected)} if expected else {})


def test_the_candidates_of_a_lock() -> None:
    wheel = f"ab/cd/{'e' * 60}/x.whl"
    urls = [f"{FORGE}noarch/a.conda", f"{FORGE}linux-64/b.conda", f"{FORGE}noarch/c.conda", f"{TORCH}linux-64/t.conda"]
    both = Preset("both", "", {FORGE: "https://both/cf/", TORCH: "https://both/pt/"}, "https://both/simple")
    one = Preset("one", "", {FORGE: "https://one/cf/"})
    found = candidates([*urls, WHEELS + wheel, "file:///srv/channel/noarch/d.conda"], [both, one])
    assert found == [
        Candidate("both", FORGE, "https://both/cf/", "linux-64", "linux-64/b.conda"),
        Candidate("one", FORGE, "https://one/cf/", "linux-64", "linux-64/b.conda"),
        Candidate("origin", FORGE, FORGE, "linux-64", "linux-64/b.conda"),
        Candidate("both", TORCH, "https://both/pt/", "linux-64", "linux-64/t.conda"),
        Candidate("origin", TORCH, TORCH, "linux-64", "linux-64/t.conda"),
        Candidate("both", WHEELS, "https://both/packages/", "", wheel),
        Candidate("origin", WHEELS, WHEELS, "", wheel),
    ]


def test_the_table_shows_failures_last() -> None:
    shown = by_channel([reading("a", None, None), reading("c", 1, 1), reading("b", 1, 9)])
    assert [each.name for each in shown[FORGE]] == ["b", "c", "a"]
