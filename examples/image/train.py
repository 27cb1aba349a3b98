"""Train on shapes that are drawn here, and write the weights.

python train.py weights.safetensors --seed 1
python -m serve publish weights.safetensors --to checkpoints --name shapes_v1.safetensors --version 1
"""

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from model import SHAPES, SIDE, Shapes

from serve import publish

IMAGES = 600
BATCH = 60
# The images are the same for every seed of the training, so that versions can be compared.
TASK_SEED = 7


def draw(shape: str, chance: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Draw one shape somewhere, bright on dark.

    Args:
        shape: one of `SHAPES`.
        chance: decides where and how large.
        side: of the image, in pixels.

    Shapes:
        [side, side], from 0 to 1.
    """
    radius = chance.uniform(0.2, 0.35) * side
    middle = chance.uniform(radius, side - radius, size=2)
    down, right = np.abs(np.indices((side, side)) - middle[:, None, None])
    if shape == "circle":
        inside = down**2 + right**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(down, right) <= radius * 0.9
    else:
        inside = (np.minimum(down, right) <= radius * 0.25) & (np.maximum(down, right) <= radius)
    return np.clip(inside * 0.8 + chance.normal(0.1, 0.05, (side, side)), 0, 1)


def make_task() -> "tuple[torch.Tensor, torch.Tensor]":
    """Return images, and the place of each one's shape in `SHAPES`.

    Shapes:
        [600, 1, 24, 24] and [600].
    """
    chance = np.random.default_rng(TASK_SEED)
    classes = chance.integers(len(SHAPES), size=IMAGES)
    images = np.stack([draw(SHAPES[each], chance) for each in classes])
    return torch.from_numpy(images.astype(np.float32))[:, None], torch.from_numpy(classes)


def train(seed: int, epochs: int) -> "tuple[Shapes, float]":
    """Train one version.

    Args:
        seed: of the initial weights.
        epochs: passes over all images.

    Returns:
        The model, and the share of images that it names rightly.
    """
    torch.manual_seed(seed)
    images, classes = make_task()
    model = Shapes()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for some, their_classes in zip(images.split(BATCH), classes.split(BATCH)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model.layers(some), their_classes)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return model, (model(images).argmax(dim=1) == classes).float().mean().item()


def main() -> None:
    """Train and save, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the shapes model.")
    parser.add_argument("output", type=Path, help="file to write: .safetensors")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the images (default: 20)")
    parser.add_argument("--to", help="publish them there, too: the watched directory, or its URL")
    options = parser.parse_args()
    model, accuracy = train(options.seed, options.epochs)
    safetensors.torch.save_file(model.state_dict(), str(options.output))
    print(f"wrote {options.output}: {accuracy:.1%} of {IMAGES} images right")
    if options.to:
        print(f"published {publish(options.output, options.to).checkpoint}")


if __name__ == "__main__":
    main()
