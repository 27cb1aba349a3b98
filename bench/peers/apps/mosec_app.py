"""mosec: a front in Rust, workers in Python that get batches."""

import os

import models
import torch
from mosec import Server, Worker

model = models.load()


class Binary(Worker):
    def deserialize(self, data):
        return models.from_bytes(data)

    def serialize(self, data):
        return data

    def forward(self, data):
        with torch.inference_mode():
            outputs = model(torch.cat(data)).numpy()
        ends = [len(rows) for rows in data]
        starts = [sum(ends[:place]) for place in range(len(ends))]
        return [outputs[start : start + count].tobytes() for start, count in zip(starts, ends)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Binary, num=int(os.environ["BENCH_WORKERS"]), max_batch_size=32, max_wait_time=1)
    server.run()
