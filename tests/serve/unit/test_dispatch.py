"""Running predictions beside an event loop; a predictor without torch."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from predictors import Times, go_live, make_server

from serve.batching.scheduler import Scheduler
from serve.gateway.asgi_app import AsgiApp
from serve.gateway.routes import PREDICTION_ROUTES
from serve.http.messages import Request
from serve.protocols.native import predict


class Noting(Times):
    """Notes what runs together, and in which thread."""

    def __init__(self, pause_s=0.0):
        super().__init__()
        self.pause_s, self.runs = pause_s, []

    def run(self, taken):
        self.runs.append((len(taken), threading.current_thread().name))
        time.sleep(self.pause_s)
        if 13 in taken:
            raise RuntimeError("13")
        return super().run(taken)


def ask(directory, predictor, bodies, timeouts=(), pause_s=0.0, toml=""):
    """Ask for all bodies, in one turn of the loop unless a pause is given; return the answers and the batches."""
    server = make_server(directory, 'model = "m:M"\ncheckpoints = "ck"\n' + toml)
    for instance in server.instances:
        go_live(instance, predictor)
    batches = []

    async def run():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(loop, lambda name, rows: batches.append((name, rows)))
        app = AsgiApp(server, None, scheduler)
        answers = [loop.create_future() for _ in bodies]
        for number, (body, answer) in enumerate(zip(bodies, answers)):
            headers = {"x-request-timeout": str(timeouts[number])} if timeouts else {}
            request = Request("POST", "/predict", headers, json.dumps({"inputs": body}).encode(), {})
            app.handle(PREDICTION_ROUTES[0], request, "", answer.set_result)
            if pause_s:
                await asyncio.sleep(pause_s)
        found = await asyncio.wait_for(asyncio.gather(*answers), 60)
        assert scheduler.waiting == 0
        scheduler.close()
        return found

    assert PREDICTION_ROUTES[0].handle is predict
    return asyncio.run(run()), batches


def outputs(answers):
    return [json.loads(b"".join(answer.parts))["outputs"] for answer in answers]


def test_what_is_asked_in_one_turn_of_the_loop_runs_once(tmp_path):
    predictor = Noting()
    answers, batches = ask(tmp_path, predictor, [[number] for number in range(20, 30)])
    assert outputs(answers) == [[2.0 * number] for number in range(20, 30)]
    assert batches == [("M", 10)]


def test_while_a_batch_runs_the_next_one_gathers(tmp_path):
    predictor = Noting(pause_s=0.2)
    _, batches = ask(tmp_path, predictor, [[number] for number in range(20, 30)], pause_s=0.01)
    assert sum(rows for _, rows in batches) == 10
    assert len(batches) < 10
    assert {name.partition("_")[0] for _, name in predictor.runs} == {"inference"}


def test_a_model_that_has_shown_to_be_short_moves_into_the_loop(tmp_path):
    predictor = Noting()
    ask(tmp_path, predictor, [[20]] * 40, pause_s=0.02)
    first, last = predictor.runs[0][1], predictor.runs[-1][1]
    assert first.startswith("inference")
    assert last == threading.current_thread().name


def test_one_bad_request_spoils_no_other(tmp_path):
    answers, _ = ask(tmp_path, Noting(), [[12], [13], [14]])
    assert [answer.status for answer in answers] == [200, 500, 200]


def test_a_request_whose_deadline_passed_in_the_queue_is_turned_away(tmp_path):
    predictor = Noting(pause_s=0.5)
    answers, _ = ask(tmp_path, predictor, [[20], [21]], timeouts=(60, 0.1), pause_s=0.05)
    assert [answer.status for answer in answers] == [200, 504]
    assert len(predictor.runs) == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_of_the_settings_holds(tmp_path, limit):
    predictor = Noting()
    ask(
        tmp_path,
        predictor,
        [[number] for number in range(20, 26)],
        toml=f"max_batch_size = {limit}\nbatch_check_share = 0\n",
    )
    assert {rows for rows, _ in predictor.runs} == {limit}


def test_no_lease_is_left_behind(tmp_path):
    server = make_server(tmp_path)
    instance = next(iter(server.instances))
    go_live(instance, Noting())

    async def run():
        app = AsgiApp(server, None, Scheduler(asyncio.get_running_loop(), lambda name, rows: None))
        for body in (b'{"inputs": [20]}', b'{"inputs": [13]}', b"{"):
            answered = asyncio.get_running_loop().create_future()
            app.handle(PREDICTION_ROUTES[0], Request("POST", "/predict", {}, body, {}), "", answered.set_result)
            await asyncio.wait_for(answered, 60)

    asyncio.run(run())
    go_live(instance, generation=2)
    assert len(instance.slot.take_drained()) == 1


def test_a_full_queue_of_one_model_turns_nobody_away_from_another(tmp_path):
    models = '[models.a]\ncheckpoints = "a"\n[models.b]\ncheckpoints = "b"\n'
    server = make_server(tmp_path, 'model = "m:M"\nmax_queue = 1\nmax_batch_size = 1\n' + models)
    for instance in server.instances:
        go_live(instance)

    async def run():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(loop, lambda name, rows: None)
        app = AsgiApp(server, None, scheduler)
        answers = {"a": [], "b": []}
        for name in "aaaab":
            request = Request("POST", f"/predict/{name}", {}, b'{"inputs": [1]}', {"name": name})
            answers[name].append(loop.create_future())
            app.handle(PREDICTION_ROUTES[1], request, "", answers[name][-1].set_result)
        found = {}
        for name, futures in answers.items():
            found[name] = [answer.status for answer in await asyncio.gather(*futures)]
        scheduler.close()
        return found

    assert asyncio.run(run()) == {"a": [200, 200, 503, 503], "b": [200]}


def test_a_request_whose_rows_cannot_be_counted_gives_its_lease_back(tmp_path):
    class Uncountable(Times):
        def count_rows(self, taken):
            raise IndexError("no rows")

    server = make_server(tmp_path)
    instance = server.find(None).stable
    go_live(instance, Uncountable())

    async def run():
        loop = asyncio.get_running_loop()
        app = AsgiApp(server, None, Scheduler(loop, lambda name, rows: None))
        answer = loop.create_future()
        request = Request("POST", "/predict", {}, b'{"inputs": [1]}', {})
        app.handle(PREDICTION_ROUTES[0], request, "", answer.set_result)
        return (await answer).status

    assert asyncio.run(run()) == 500
    old = go_live(instance)
    assert instance.slot.take_drained() == [old]


def test_who_is_alone_is_answered_before_the_loop_turns(tmp_path):
    server = make_server(tmp_path, 'model = "m:M"\ncheckpoints = "ck"\n')
    for instance in server.instances:
        go_live(instance, Noting())
    request = Request("POST", "/predict", {}, b'{"inputs": [20]}', {})

    async def run():
        loop = asyncio.get_running_loop()
        app = AsgiApp(server, None, scheduler := Scheduler(loop, lambda name, rows: None))
        for is_alone, is_at_once in ((False, False), (False, False), (True, True)):
            answer = loop.create_future()
            app.handle(PREDICTION_ROUTES[0], request, "", answer.set_result, is_alone)
            assert answer.done() is is_at_once
            assert outputs([await asyncio.wait_for(answer, 60)]) == [[40.0]]
        scheduler.close()

    asyncio.run(run())


class Leaking(Times):
    """Adds the other rows of a run to each, which no trial has seen."""

    def run(self, taken):
        return super().run(taken) + (taken.sum() - taken if len(taken) > 1 else 0)


def test_a_difference_in_service_ends_batching_in_every_worker(tmp_path):
    bodies = [[number] for number in range(20, 30)]
    wrong, _ = ask(tmp_path, Leaking(), bodies)
    assert outputs(wrong) != [[2.0 * number] for number in range(20, 30)]
    other, _ = ask(tmp_path, Leaking(), bodies)  # another server on the same store
    assert outputs(other) == [[2.0 * number] for number in range(20, 30)]


def test_what_is_proven_stays_within_its_share(tmp_path):
    class Counting(Noting):
        compared = 0

        def compare_alone(self, taken, shared, rows, place):
            self.compared += 1
            time.sleep(0.01)
            return super().compare_alone(taken, shared, rows, place)

    for toml, most in (("batch_check_share = 0", 0), ("batch_check_share = 0.01", 1), ("", 1)):
        predictor = Counting(pause_s=0.01)
        answers, _ = ask(tmp_path, predictor, [[20]] * 60, pause_s=0.002, toml=toml + "\n")
        assert {answer.status for answer in answers} == {200}
        assert predictor.compared <= most  # a busy machine may join nothing
