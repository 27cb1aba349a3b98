"""Train on customers that are made up by a rule with some chance in it, and write the weights.

python train.py weights.safetensors --seed 1
python -m serve publish weights.safetensors --to checkpoints --name churn_v1.safetensors --version 1
"""

import argparse
import random
from pathlib import Path

import safetensors.torch
import torch
from model import PLANS, Churn

from serve import publish

CUSTOMERS = 2000
# The customers are the same for every seed of the training, so that versions can be compared.
TASK_SEED = 7


def make_task() -> "tuple[dict[str, list], torch.Tensor]":
    """Return customers, and whether each has left.

    Shapes:
        Three columns of 2000, and [2000].
    """
    chance = random.Random(TASK_SEED)
    columns: dict[str, list] = {"months": [], "monthly_fee": [], "plan": []}
    left = []
    for _ in range(CUSTOMERS):
        months, fee, plan = chance.uniform(0, 60), chance.uniform(10, 90), chance.choice(PLANS)
        columns["months"].append(months)
        columns["monthly_fee"].append(fee)
        columns["plan"].append(plan)
        # Who is new and pays much leaves; a business stays longer.
        left.append(fee - months - 25 * (plan == "business") + chance.gauss(0, 5) > 10)
    return columns, torch.tensor(left, dtype=torch.float32)


def train(seed: int, epochs: int) -> "tuple[Churn, float]":
    """Train one version.

    Args:
        seed: of the initial weights.
        epochs: passes over all customers.

    Returns:
        The model, and the share of customers that it is right about.
    """
    torch.manual_seed(seed)
    columns, left = make_task()
    model = Churn()
    rows = model.inputs_to_tensors(columns)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy(model(rows), left)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model, ((model(rows) > 0.5) == (left > 0.5)).float().mean().item()


def main() -> None:
    """Train and save, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the churn model.")
    parser.add_argument("output", type=Path, help="file to write: .safetensors")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    parser.add_argument("--epochs", type=int, default=150, help="passes over the customers (default: 150)")
    parser.add_argument("--to", help="publish them there, too: the watched directory, or its URL")
    options = parser.parse_args()
    model, accuracy = train(options.seed, options.epochs)
    safetensors.torch.save_file(model.state_dict(), str(options.output))
    print(f"wrote {options.output}: right about {accuracy:.1%} of {CUSTOMERS} customers")
    if options.to:
        print(f"published {publish(options.output, options.to).checkpoint}")


if __name__ == "__main__":
    main()
