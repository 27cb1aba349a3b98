"""How a series goes on: a model class whose inputs may have any length.

`dynamic_axes` is all that `serve` asks of it for that.
"""

import torch


class Forecast(torch.nn.Module):
    """A recurrent layer over a series of numbers, and a linear layer on its last state.

    Args:
        hidden: numbers in the state.
    """

    example_inputs = ([0.0, 0.5, 0.9, 1.0, 0.9, 0.5, 0.0, -0.5],)
    dynamic_axes = {"inputs": [1]}  # noqa: RUF012 - nobody writes to it

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.recurrent = torch.nn.GRU(1, hidden, batch_first=True)
        self.head = torch.nn.Linear(hidden, 1)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return the next number of each series.

        Shapes:
            series: [any, steps]. Returns: [any].
        """
        states, _ = self.recurrent(series[:, :, None])
        return self.head(states[:, -1])[:, 0]
