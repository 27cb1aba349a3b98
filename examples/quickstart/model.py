"""A small classifier of tabular rows, as a model class for `serve`.

All that `serve` asks of it is `example_inputs`: a request's inputs, by which it warms up and knows the shape.
"""

import torch

FEATURES = 16
CLASSES = 3


class Classifier(torch.nn.Module):
    """Two layers from 16 features to the probabilities of 3 classes.

    Args:
        hidden: width of the layer between.
    """

    example_inputs = ([0.0] * FEATURES,)

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, CLASSES),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the class probabilities of each row.

        Shapes:
            rows: [any, 16]. Returns: [any, 3].
        """
        return torch.softmax(self.layers(rows), dim=1)
