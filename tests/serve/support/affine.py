"""Model classes of the tests. Their answers to small whole numbers are exact, so they can be checked without torch."""

import torch


class Affine(torch.nn.Module):
    """Four numbers in, two out; `example_inputs` is all that serve asks for."""

    example_inputs = ([0.0] * 4,)

    def __init__(self, outputs=2):
        super().__init__()
        self.layer = torch.nn.Linear(4, outputs)

    def forward(self, rows):
        return self.layer(rows)


class Masked(torch.nn.Module):
    """Has a buffer that holds infinities rightly, and one that may not hold NaN."""

    example_inputs = ([0.0] * 2,)

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, rows):
        return torch.softmax(rows * self.scale + self.mask, dim=1)


class Words:
    """A class that is no module: builds one, and takes texts instead of numbers."""

    example_inputs = ("ab", "b")

    def build_module(self):
        return torch.nn.Embedding(26, 1)

    def inputs_to_tensors(self, inputs):
        if not isinstance(inputs, (list, tuple)) or not all(isinstance(word, str) for word in inputs):
            raise ValueError("expected a list of words")
        return [torch.tensor([ord(letter) - ord("a") for letter in word]) for word in inputs]

    def run_module(self, module, words):
        return [module(word).sum() for word in words]

    def tensors_to_outputs(self, sums):
        return {"sums": [float(total) for total in sums]}


class Whole(torch.nn.Module):
    """Takes whole numbers, as a token model does."""

    example_inputs = ([1, 2, 3],)

    def __init__(self, rows=10):
        super().__init__()
        self.table = torch.nn.Embedding(rows, 1)

    def forward(self, rows):
        return self.table(rows).sum(dim=(1, 2))


class Slow(Affine):
    """Answers after a while, so that a swap finds requests in flight."""

    batchable = False  # a trial would wait as long as its numbers say

    def forward(self, rows):
        import time

        time.sleep(float(rows[0, 0]))
        return super().forward(rows)


class Whose(Affine):
    """Answers with the worker that has answered, after as many seconds as the first number has."""

    batchable = False

    def forward(self, rows):
        import os
        import time

        time.sleep(float(rows[0, 0]))
        return torch.tensor([[float(os.getpid()), 0.0]] * len(rows))


class Threads(Affine):
    """Multiplies matrices of the size that it is asked for, and tells with how many threads.

    It asks OpenMP, as `torch.get_num_threads` would set the number in the thread that asks.
    """

    def forward(self, rows):
        import ctypes
        import threading
        from pathlib import Path

        lines, tasks = Path("/proc/self/maps").read_text().splitlines(), Path("/proc/self/task")
        library = next(line.split()[-1] for line in lines if "libgomp" in line)
        most = ctypes.CDLL(library).omp_get_max_threads()
        before = {int(task.name) for task in tasks.iterdir()}
        size = int(rows[0, 0])
        torch.nn.functional.linear(rows.expand(size, 4), rows.expand(size, 4))
        known = {thread.native_id for thread in threading.enumerate()}
        begun = {int(task.name) for task in tasks.iterdir()} - before - known
        is_main = threading.current_thread() is threading.main_thread()
        return torch.tensor([[most, torch.get_num_threads(), len(begun), is_main]], dtype=torch.float32)


class Lengths(Affine):
    """Takes two inputs of any length, and answers by their sum and by the length."""

    example_inputs = {"ids": [[1, 2, 3]], "mask": [[1, 1, 0]]}  # noqa: RUF012
    dynamic_axes = {"ids": {1: "length"}, "mask": {1: "length"}}  # noqa: RUF012

    def forward(self, ids, mask):
        total, length = (ids * mask).sum(1), torch.full((len(ids),), ids.shape[1])
        rows = torch.stack([total, length, length * 0, length * 0], 1).float()
        return {"scores": super().forward(rows), "kept": ids * mask}


class Sly(Affine):
    """Looks at all rows, but only where they hold numbers that no trial asks for."""

    def forward(self, rows):
        return super().forward(rows - rows.mean(0) if len(rows) > 1 and rows.max() > 5000 else rows)


class Faulty(Sly):
    """Fails over the row that begins with 13, too."""

    def forward(self, rows):
        if 13 in rows[:, 0]:
            raise RuntimeError("13 is no good")
        return super().forward(rows)


class Corruptible(Affine):
    """Writes into its weights when it sees a certain number."""

    def forward(self, rows):
        if rows[0, 0] == 666:
            self.layer.bias.data[0] += 1
        return super().forward(rows)


class Keeping(Affine):
    """Keeps its rows while it computes, for which no two requests may run at once."""

    def forward(self, rows):
        import time

        self.rows = rows
        time.sleep(0.01)
        return super().forward(self.rows)


class Drifting(Affine):
    """Moves its bias with each answer."""

    def forward(self, rows):
        self.layer.bias += 0.001
        return super().forward(rows)


class SlowToBuild(Affine):
    """Takes its time before it can be loaded, as a large model does."""

    def __init__(self):
        import time

        time.sleep(2)
        super().__init__()


class Raising(Affine):
    """Cannot be warmed up."""

    def forward(self, rows):
        raise RuntimeError("this model never answers")


class Hanging(Affine):
    """Never comes to an end of its first answer."""

    def forward(self, rows):
        import time

        while True:
            time.sleep(0.01)


class Stuck(Affine):
    """Hangs for seconds in code that nothing interrupts."""

    def forward(self, rows):
        import time

        time.sleep(3)
        return super().forward(rows)


class Moody(Affine):
    """Hangs, raises or runs out of memory where its first bias says so, and answers otherwise."""

    def forward(self, rows):
        import time

        while float(self.layer.bias[0]) == 13:
            time.sleep(0.01)
        if float(self.layer.bias[0]) == 17:
            raise RuntimeError("17 is not a good bias")
        if float(self.layer.bias[0]) == 19:
            torch.empty(2**55, dtype=torch.uint8)  # more than any machine has
        return super().forward(rows)


class Transposed(Affine):
    """Takes the same checkpoints, and answers in another form."""

    def forward(self, rows):
        return super().forward(rows).t()


class AtMostEight(Affine):
    """Takes batches up to eight rows."""

    def forward(self, rows):
        if len(rows) > 8:
            raise RuntimeError(f"{len(rows)} rows are too many")
        return super().forward(rows)


class Choosy(Affine):
    """Has a check of its own."""

    def validate(self, model):
        assert model.module is self
        if any(model.predict([[0.0] * 4])[0]):
            raise ValueError("the bias must be 0")


class Unbuildable(Affine):
    """Cannot be built."""

    def __init__(self):
        raise OSError("no such vocabulary")


class Exampleless(torch.nn.Linear):
    """Says nothing of its inputs."""

    def __init__(self):
        super().__init__(4, 2)


class Turning(Affine):
    """Answers its example well, and real requests as its first bias says: what no gate before a swap can see."""

    output_range = (-50000.0, 50000.0)
    NAN, RAISING, SLOW, ONE_CLASS, OUTSIDE, LATE, SELDOM = range(101, 108)

    def __init__(self):
        super().__init__()
        self.count = 0
        self.seen = []

    def forward(self, rows):
        import time

        kind, real = int(self.layer.bias[0]), int((rows[:, 0] == 3).sum())
        answers = super().forward(rows)
        if not real:
            return answers
        self.count += real
        if kind == self.NAN or (kind == self.LATE and self.count > 500):
            answers = answers * float("nan")
        if kind == self.RAISING or (kind == self.SELDOM and bool((rows[:, 2] % 50 == 13).any())):
            raise RuntimeError("this model fails on what clients send")
        if kind == self.OUTSIDE:
            answers = answers + 1e6
        time.sleep(0.025 if kind == self.SLOW else 0.005 if self.layer.bias[1] == 5 else 0)
        return answers * 0 if kind == self.ONE_CLASS else answers

    def healthy(self, inputs, outputs):
        """Not every answer is the same one, whatever is asked."""
        self.seen = [*self.seen, *map(tuple, outputs)][-20:]
        return len(self.seen) < 20 or len(set(self.seen)) > 1 or "20 answers in succession were the same"


class Gate(Affine):
    """Does what files of a directory say while it is built, so that a test can hold, fail or kill one worker."""

    def __init__(self, directory):
        import os
        import signal
        import time
        from pathlib import Path

        gate, pid = Path(directory), os.getpid()
        (gate / f"entered-{pid}").touch()
        while (gate / f"hold-{pid}").exists() or (gate / "hold-all").exists():
            time.sleep(0.01)
        if (gate / f"fail-{pid}").exists():
            raise OSError("told to fail")
        if (gate / "crash").exists():
            os.kill(pid, signal.SIGKILL)
        super().__init__()


class Big(torch.nn.Module):
    """400 MB of weights."""

    example_inputs = ([0.0] * 10000,)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.utils.skip_init(torch.nn.Linear, 10000, 10000)

    def forward(self, rows):
        return self.layer(rows).sum(dim=1, keepdim=True)


class Recording(Affine):
    """Takes a while, notes how many rows each run has, and fails over the row that begins with 13."""

    def __init__(self, directory):
        from pathlib import Path

        super().__init__()
        self.directory = Path(directory)

    def forward(self, rows):
        import time

        with (self.directory / "runs").open("a") as runs:
            runs.write(f"{len(rows)}\n")
        time.sleep(0.05)
        if 13 in rows[:, 0]:
            raise RuntimeError("13 is no good")
        return super().forward(rows)
