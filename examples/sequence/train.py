"""Train on waves of many lengths, and write the weights.

python train.py weights.safetensors --seed 1
python -m serve publish weights.safetensors --to checkpoints --name forecast_v1.safetensors --version 1
"""

import argparse
from pathlib import Path

import safetensors.torch
import torch
from model import Forecast

from serve import publish

SERIES, STEPS = 400, 24
# The series are the same for every seed of the training, so that versions can be compared.
TASK_SEED = 7


def make_task() -> "tuple[torch.Tensor, torch.Tensor]":
    """Return series, and what comes after each.

    Shapes:
        [400, 24] and [400].
    """
    chance = torch.Generator().manual_seed(TASK_SEED)
    begins = torch.rand(SERIES, 1, generator=chance) * 6.3
    paces = 0.3 + torch.rand(SERIES, 1, generator=chance) * 0.5
    waves = torch.sin(begins + paces * torch.arange(STEPS + 1))
    return waves[:, :-1], waves[:, -1]


def train(seed: int, epochs: int) -> "tuple[Forecast, float]":
    """Train one version.

    Args:
        seed: of the initial weights.
        epochs: passes over all series.

    Returns:
        The model, and the root of its mean squared error.
    """
    torch.manual_seed(seed)
    series, following = make_task()
    model = Forecast()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(series), following)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model, torch.nn.functional.mse_loss(model(series), following).sqrt().item()


def main() -> None:
    """Train and save, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the forecast model.")
    parser.add_argument("output", type=Path, help="file to write: .safetensors")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    parser.add_argument("--epochs", type=int, default=80, help="passes over the series (default: 80)")
    parser.add_argument("--to", help="publish them there, too: the watched directory, or its URL")
    options = parser.parse_args()
    model, error = train(options.seed, options.epochs)
    safetensors.torch.save_file(model.state_dict(), str(options.output))
    print(f"wrote {options.output}: {error:.3f} from the next of {SERIES} series")
    if options.to:
        print(f"published {publish(options.output, options.to).checkpoint}")


if __name__ == "__main__":
    main()
