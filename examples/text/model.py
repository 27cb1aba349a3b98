"""In which language a text is written: a model class that takes texts.

A request's `inputs` is a list of texts. In the V2 protocol it is one tensor of BYTES.
"""

import zlib

import torch

LANGUAGES = ("English", "German", "French", "Spanish")
BUCKETS = 4096
# The first pieces of a text tell its language; texts of one length can share a run.
LONGEST = 80


class Language(torch.nn.Module):
    """The mean of what each piece of three letters says of the languages."""

    example_inputs = ("where is the station", "wo ist der Bahnhof")

    def __init__(self) -> None:
        super().__init__()
        # The piece 0 is what fills a text up to its length; it says nothing.
        self.pieces = torch.nn.Embedding(BUCKETS, len(LANGUAGES), padding_idx=0)

    def inputs_to_tensors(self, inputs: "list[str]") -> torch.Tensor:
        """Cut texts into pieces of three letters, and number them.

        Args:
            inputs: the texts.

        Raises:
            ValueError: they are no texts.

        Shapes:
            Returns: [texts, 80].
        """
        if not isinstance(inputs, (list, tuple)) or not inputs or not all(isinstance(text, str) for text in inputs):
            raise ValueError("expected a list of texts")
        return torch.tensor([number(text) for text in inputs])

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        """Return the probability of each language.

        Shapes:
            pieces: [any, 80]. Returns: [any, 4].
        """
        counts = (pieces != 0).sum(dim=1, keepdim=True).clamp(min=1)
        return torch.softmax(self.pieces(pieces).sum(dim=1) / counts * 10, dim=1)

    def tensors_to_outputs(self, probabilities: torch.Tensor) -> "dict[str, list]":
        """Name the likeliest language.

        Shapes:
            probabilities: [any, 4].
        """
        best, places = probabilities.max(dim=1)
        return {"language": [LANGUAGES[place] for place in places.tolist()], "probability": best.tolist()}


def number(text: str) -> "list[int]":
    """Give each piece of three letters a number from 1, and fill up with 0.

    Args:
        text: any.
    """
    spaced = f" {text.lower()} "
    pieces = [spaced[begin : begin + 3].encode(errors="replace") for begin in range(min(len(spaced) - 2, LONGEST))]
    numbers = [1 + zlib.crc32(piece) % (BUCKETS - 1) for piece in pieces]
    return numbers + [0] * (LONGEST - len(numbers))
