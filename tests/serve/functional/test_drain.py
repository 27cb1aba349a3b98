"""The end of a server under load, behind something that does what a load balancer does."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from serving import wait_until
from trainer import ROW

pytestmark = pytest.mark.needs_torch
QUICK = [0.0, *ROW[1:]]


class Balancer:
    """Clients that send while `/readyz` says 200, as a load balancer has them do."""

    def __init__(self, server, threads):
        self.server, self.statuses, self.failures, self.may_send = server, [], [], True
        self._senders = [threading.Thread(target=self._send, args=(index,)) for index in range(threads)]
        self._prober = threading.Thread(target=self._probe)

    def __enter__(self):
        for thread in [*self._senders, self._prober]:
            thread.start()
        return self

    def __exit__(self, *error):
        self.may_send = False
        for thread in [*self._senders, self._prober]:
            thread.join()

    def _probe(self):
        while self.may_send:
            try:
                self.may_send = self.server.get("/readyz").status == 200 and self.may_send
            except OSError as error:
                self.failures.append(f"the probe: {error!r}")
                self.may_send = False
            time.sleep(0.05)

    def _send(self, index):
        client = self.server.client()
        while self.may_send:
            try:
                reply = client.predict([QUICK])
                self.statuses.append(reply.status)
                if reply.headers.get("connection") == "close" or index % 2:
                    client.close()
            except Exception as error:
                self.failures.append(repr(error))
                client.close()
        client.close()


@pytest.mark.both_workers
def test_nobody_is_failed_by_the_end_of_a_server(start_server, trainer):
    trainer.publish(1)
    server = start_server(model="affine:Slow", drain_delay_s=8)
    server.wait_live(1)
    slow = []
    for _ in range(8):  # each worker learns that this model is quick now and slow then, and keeps it out of its loop
        assert server.client().predict([[1.1, *ROW[1:]]]).status == 200

    def wait_long():
        slow.append(server.client().predict([[11.0, *ROW[1:]]]))

    with Balancer(server, threads=6) as balancer:
        wait_until(lambda: len(balancer.statuses) > 50 or balancer.failures, "requests to flow")
        asker = threading.Thread(target=wait_long)
        asker.start()
        time.sleep(1)
        before = len(balancer.statuses)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not balancer.may_send, "readiness to drop")
        assert server.get("/livez").status == 200  # it is not ready, and not to be killed
        assert server.client().predict([QUICK]).status == 200  # whoever still comes is answered
    asker.join()
    assert balancer.failures == []
    assert set(balancer.statuses) == {200}
    assert len(balancer.statuses) > before
    assert slow[0].status == 200  # it began before the end and was answered by its model after it
    assert server.process.wait(60) == 0


def test_without_a_delay_the_end_is_as_quick_as_ever(start_server, trainer):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0


def test_a_second_signal_does_not_wait(start_server, trainer):
    trainer.publish(1)
    server = start_server(drain_delay_s=600)
    server.wait_live(1)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.get("/readyz").status == 503, "readiness to drop")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
