"""How soon bad checkpoints take themselves back, and what their clients see.

    python bench/undo.py --workers 2 8 --classes asgi gthread

Each server answers good weights; then checkpoints are published that pass every gate and turn bad for real requests,
one after another. With `retry_spoiled = "all"` no client may see a bad answer. Stated is how long after the smallest
count of spoiled answers (7; for `slower` after the swap) the generation before was live again, in all workers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/serve/support")]
import serving  # noqa: E402
from serving import Server, wait_until  # noqa: E402
from trainer import Trainer  # noqa: E402

NAN, RAISING, SLOW, ONE_CLASS, OUTSIDE, LATE, SELDOM = range(101, 108)
KINDS = {
    "finite": NAN, "errors": RAISING, "unhealthy": ONE_CLASS, "range": OUTSIDE, "finite, after 500": LATE,
    "errors, 1 of 50": SELDOM, "slower": SLOW,
}  # fmt: skip
SMALLEST = 7
serving.PATIENCE_S = 600  # eight workers on a busy machine import torch for minutes


class Clients:
    """Threads that ask over kept connections, and keep what each answer was, and when it came."""

    def __init__(self, port: int, threads: int, every_s: float) -> None:
        self.answers: list[tuple[float, int, bool, bool, int]] = []
        self._stopping, self._every_s = threading.Event(), every_s
        self._threads = [threading.Thread(target=self._ask, args=(port, place)) for place in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, place: int) -> None:
        connection, count = http.client.HTTPConnection("127.0.0.1", port), 0
        while not self._stopping.wait(self._every_s):
            count += 1
            body = json.dumps({"inputs": [[3.0, float(place), float(count % 1000), 2.0]]})
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            is_good = answer.status == 200 and abs(json.loads(text)["outputs"][0][0]) < 50000
            generation = int(answer.headers.get("X-Model-Generation", 0))
            self.answers.append((time.time(), answer.status, is_good, "X-Model-Retried" in answer.headers, generation))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def run(name: str, server: Server, trainer: Trainer, clients: Clients, seed: int, patience_s: float) -> dict:
    """Publish one, and wait until it is back."""
    before = len(server.events("returned"))
    began = len(clients.answers)
    trainer.publish_kind(KINDS[name], seed, 5.0)
    until_s = time.monotonic() + patience_s
    while len(server.events("returned")) == before and time.monotonic() < until_s:
        time.sleep(0.05)
    found = server.events("returned")
    if len(found) == before:
        return {"kind": name, "returned": False}
    event = found[-1]
    back_s = datetime.fromisoformat(event["time"]).timestamp()
    number = event["previous"]["generation"]
    time.sleep(1.0)
    answers = clients.answers[began:]
    swapped_s = min(
        datetime.fromisoformat(one["time"]).timestamp()
        for one in server.events("swapped")
        if one["generation"] == number
    )
    marked = sorted(answer[0] for answer in answers if answer[3])
    smallest = event["bad"].get(event["signal"], [0])[0] if "1 of" in name else SMALLEST
    after_s = marked[smallest - 1] if len(marked) >= smallest and name != "slower" else swapped_s
    late = [answer for answer in answers if answer[4] == number and not answer[3]]
    return {
        "kind": name,
        "returned": True,
        "signal": event["signal"],
        "bad": event["bad"],
        "answers": event["answers"],
        "seconds_after_smallest": round(back_s - after_s, 3),
        "made_again": len(marked),
        "bad_at_clients": sum(not answer[2] for answer in answers),
        "last_answer_of_it_s": round(max([answer[0] for answer in late], default=back_s) - back_s, 3),
    }


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--classes", nargs="*", default=["asgi", "gthread"])
    parser.add_argument("--rates", nargs="*", default=["saturation", "1/s"])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    for worker in options.classes:
        for workers in options.workers:
            with tempfile.TemporaryDirectory() as name:
                directory = Path(name)
                trainer = Trainer(directory / "work", directory / "checkpoints")
                trainer.publish_kind(0, 1, 5.0)
                settings = {"worker": worker, "workers": workers, "model": "affine:Turning", "retry_spoiled": "all"}
                server = Server(directory, trainer.directory, {**settings, "probation_s": 600, "name": "affine"})
                try:
                    wait_until(lambda s=server, n=workers: len(s.events("swapped") + s.events("restored")) >= n, "it")
                    for rate in options.rates:
                        clients = Clients(
                            server.port, 4 if rate == "saturation" else 1, 0.0 if rate == "saturation" else 1.0
                        )
                        time.sleep(3.0 if rate == "saturation" else 25.0)
                        for place, kind in enumerate(options.kinds):
                            # At one request a second these need 500 requests and more before they are bad at all.
                            if rate != "saturation" and KINDS[kind] in (LATE, SELDOM):
                                continue
                            found = run(kind, server, trainer, clients, 10 + place + 10 * (rate == "1/s"), 150.0)
                            load = round(os.getloadavg()[0], 1)
                            print(
                                json.dumps({"worker": worker, "workers": workers, "rate": rate, "load": load, **found}),
                                flush=True,
                            )
                        clients.stop()
                finally:
                    server.stop()


if __name__ == "__main__":
    main()
