"""Train the classifier on a synthetic task and write its weights.

python train.py weights.safetensors --seed 1
python -m serve publish weights.safetensors --to checkpoints --name model_v1.safetensors --version 1
"""

import argparse
from pathlib import Path

import safetensors.torch
import torch
from model import CLASSES, FEATURES, Classifier

from serve import publish

ROWS = 2048
LEARNING_RATE = 0.02
# The task is the same for every seed of the training, so that versions can be compared.
TASK_SEED = 7


def make_task() -> "tuple[torch.Tensor, torch.Tensor]":
    """Return rows around one centre for each class, and their classes.

    Shapes:
        [2048, 16] and [2048].
    """
    generator = torch.Generator().manual_seed(TASK_SEED)
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    classes = torch.randint(CLASSES, (ROWS,), generator=generator)
    return centres[classes] + torch.randn(ROWS, FEATURES, generator=generator), classes


def train(seed: int, epochs: int, hidden: int) -> "tuple[Classifier, float]":
    """Train one version.

    Args:
        seed: of the initial weights.
        epochs: passes over all rows.
        hidden: width of the model's hidden layer.

    Returns:
        The model, and the share of rows that it classifies rightly.
    """
    torch.manual_seed(seed)
    rows, classes = make_task()
    model = Classifier(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(torch.log(model(rows) + 1e-9), classes)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(rows).argmax(dim=1) == classes).float().mean().item()
    return model, accuracy


def save(model: Classifier, path: Path) -> None:
    """Write a state dict in the format that the file's suffix names.

    Args:
        model: whose weights are written.
        path: `.safetensors`, or `.pth` for `torch.save`.
    """
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), str(path))
    else:
        torch.save(model.state_dict(), str(path))


def main() -> None:
    """Train and save, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the quickstart classifier.")
    parser.add_argument("output", type=Path, help="file to write: .safetensors or .pth")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the task (default: 60)")
    parser.add_argument("--hidden", type=int, default=32, help="width of the hidden layer (default: 32)")
    parser.add_argument("--to", help="publish them there, too: the watched directory, or its URL")
    options = parser.parse_args()
    model, accuracy = train(options.seed, options.epochs, options.hidden)
    save(model, options.output)
    print(f"wrote {options.output}: {accuracy:.1%} of {ROWS} rows right")
    if options.to:
        print(f"published {publish(options.output, options.to).checkpoint}")


if __name__ == "__main__":
    main()
