"""The goals of a request's speed beside rivals, in one interleaved run, and whether each is reached.

    python bench/serve.py --rivals                                      FastAPI on uvicorn and on granian, mosec
    python bench/serve.py --rivals "FastAPI on uvicorn" --rounds 5      some of them
    python bench/serve.py --quick                                       seconds: that it runs, not what it shows

Measure on a machine without other work: the table has how busy it was before, and how much the host took meanwhile.
Each rival has an environment of its own in the cache directory, made by pip when it is missing (`bench/peers`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / "peers")]

import table  # noqa: E402 - found by the line above

HERE = Path(__file__).resolve().parent
FASTAPI, GRANIAN, MOSEC = "FastAPI on uvicorn", "FastAPI on granian", "mosec"
OURS = "envserve"
# Rival, format, connections, and the least ratio of requests a second with the linear model and with the MLP.
GOALS = (
    (FASTAPI, "binary", 32, 6.0, 4.5),
    (FASTAPI, "ids", 32, 3.5, 3.0),
    (FASTAPI, "json", 32, 3.0, 3.0),
    (MOSEC, "binary", 32, 2.5, 1.8),
    (FASTAPI, "binary", 1, 1.8, 1.5),
)
# So much of the cores is in use on a machine that has nothing to do.
_QUIET = 0.2


def busyness() -> float:
    """The load average of the last minute, for each core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def lines(results: list[dict[str, object]]) -> list[str]:
    """The table of goals: the ratio of medians, for what was measured."""
    found = table.medians(results)
    rows = ["| against | body | connections | model | ratio | goal | |", "|---|---|---|---|---|---|---|"]
    for rival, body, connections, *least in GOALS:
        for model, goal in zip(("tiny", "mlp"), least):
            pair = [found.get((model, body, peer, connections)) for peer in (OURS, rival)]
            if None not in pair:
                ratio = pair[0]["requests_per_s"] / pair[1]["requests_per_s"]
                verdict = "reached" if ratio >= goal else "**not reached**"
                rows.append(f"| {rival} | {body} | {connections} | {model} | {ratio:.2f} | {goal} | {verdict} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", nargs="*", default=[], help="names of bench/peers; none: the three of the goals")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of a second against FastAPI on uvicorn")
    options = parser.parse_args()
    rivals = options.rivals or ([FASTAPI] if options.quick else [FASTAPI, GRANIAN, MOSEC])
    busy_before = busyness()
    with tempfile.TemporaryDirectory() as directory:
        rounds = ["--rounds", "1" if options.quick else str(options.rounds), "--minutes", "600"]
        amount = ["--seconds", "1" if options.quick else str(options.seconds), "--connections", "1", "32"]
        chosen = ["--models", "tiny", *([] if options.quick else ["mlp"]), "--formats", "json", "binary", "ids"]
        command = [sys.executable, str(HERE / "peers"), "--peers", OURS, *rivals, *rounds, *amount, *chosen]
        subprocess.run([*command, "--output", f"{directory}/goals"], check=True, stdout=subprocess.DEVNULL)
        (kept,) = Path(directory).glob("goals-*.json")
        journal = json.loads(kept.read_text())
    results = journal["results"]
    stolen = max((result["stolen"] for result in results), default=0.0)
    print(f"{journal['machine']}; {journal['workers']} workers; the host took up to {stolen:.1%}\n")
    print("\n".join(lines(results)))
    for each in journal["left_out"]:
        print(f"left out: {each['peer']}, {each['model']}: {each['reason']}")
    if busy_before > _QUIET or stolen > _QUIET:
        print(f"\n**Not quiet**: a load of {busy_before:.2f} for each core before; these ratios are worth little.")


if __name__ == "__main__":
    main()
