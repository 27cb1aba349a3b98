"""A model that says which of its lengths are open takes them all, and says so to its clients."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.needs_torch, pytest.mark.both_workers]


def test_sequences_of_any_length(trainer, start_server):
    sha256 = trainer.publish(1).sha256
    server = start_server(model="affine:Lengths", workers=1)
    server.wait_live(1, workers=1)
    metadata = server.get("/v2/models/affine").json
    assert {spec["name"]: spec["shape"] for spec in metadata["inputs"]} == {"ids": [-1, -1], "mask": [-1, -1]}
    assert {spec["name"]: spec["shape"] for spec in metadata["outputs"]} == {"scores": [-1, 2], "kept": [-1, -1]}
    client = server.client()
    for length in (1, 2, 3, 8, 50):
        ids, mask = [list(range(length))] * 2, [[1] * length, [0] * length]
        reply = client.predict({"ids": ids, "mask": mask})
        expected = [trainer.expected(sha256, [total, length, 0, 0]) for total in (sum(ids[0]), 0)]
        assert reply.json["outputs"] == {"scores": expected, "kept": [ids[0], mask[1]]}
    for ids, mask in (([[1, 2]], [[1]]), ([[]], [[]]), ([1, 2], [1, 1])):
        assert client.predict({"ids": ids, "mask": mask}).status == 422
