"""What shape an image shows: a model class that takes PNG and JPEG bodies beside arrays.

`image_to_inputs` is all that `serve` asks of it for that; the extra `[images]` brings the decoder.
"""

import numpy as np
import torch

SHAPES = ("circle", "square", "cross")
SIDE = 24


class Shapes(torch.nn.Module):
    """Two convolutions and a linear layer over grey images of 24 by 24 pixels."""

    example_inputs = ([[[0.0] * SIDE] * SIDE],)

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 5, stride=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 4 * 4, len(SHAPES)),
        )

    def image_to_inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Make the inputs of one image.

        Args:
            pixels: red, green and blue, from 0 to 255.

        Shapes:
            pixels: [height, width, 3]. Returns: [1, 1, 24, 24].
        """
        rows = np.linspace(0, pixels.shape[0] - 1, SIDE).round().astype(int)
        columns = np.linspace(0, pixels.shape[1] - 1, SIDE).round().astype(int)
        grey = pixels[rows][:, columns].mean(axis=2) / 255
        return grey.astype(np.float32)[None, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probability of each shape.

        Shapes:
            images: [any, 1, 24, 24]. Returns: [any, 3].
        """
        return torch.softmax(self.layers(images), dim=1)

    def tensors_to_outputs(self, probabilities: torch.Tensor) -> "dict[str, list]":
        """Name the likeliest shape beside all probabilities.

        Shapes:
            probabilities: [any, 3].
        """
        best = probabilities.argmax(dim=1).tolist()
        return {"shape": [SHAPES[each] for each in best], "probabilities": probabilities.tolist()}
