"""Whether a customer will leave, from two numbers and a word: a model class with inputs and outputs by name.

Its example is an object, so requests are objects with these names. In the V2 protocol each is a tensor: `months` and
`monthly_fee` of FP32, `plan` of BYTES.
"""

import torch

PLANS = ("basic", "family", "business")
# What the numbers are divided by, so that the layers see values around 1.
SCALES = torch.tensor([60.0, 50.0])


class Churn(torch.nn.Module):
    """Two layers over the scaled numbers and the plan as one of three.

    Args:
        hidden: width of the layer between.
    """

    example_inputs = {"months": [12.0], "monthly_fee": [30.0], "plan": ["family"]}  # noqa: RUF012 - nobody writes to it

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 + len(PLANS), hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, 1),
        )

    def inputs_to_tensors(self, inputs: "dict[str, list]") -> torch.Tensor:
        """Make a row of each customer.

        Args:
            inputs: the three columns.

        Raises:
            ValueError: a column is missing, has another length, or a plan is unknown.

        Shapes:
            Returns: [customers, 5].
        """
        if not isinstance(inputs, dict) or set(inputs) != set(self.example_inputs):
            raise ValueError(f"expected an object with {', '.join(self.example_inputs)}")
        for plan in inputs["plan"]:
            if plan not in PLANS:
                raise ValueError(f"plan: expected {', '.join(PLANS)}, found {plan!r}")
        plans = torch.tensor([PLANS.index(plan) for plan in inputs["plan"]], dtype=torch.int64)
        numbers = torch.tensor([inputs["months"], inputs["monthly_fee"]], dtype=torch.float32).T
        if numbers.dim() != 2 or len(numbers) != len(plans) or not len(plans):
            raise ValueError(f"expected as many months and fees as plans, found {len(numbers)} and {len(plans)}")
        if not torch.isfinite(numbers).all():
            raise ValueError("expected numbers that fit float32, found larger ones")
        return torch.cat([numbers / SCALES, torch.nn.functional.one_hot(plans, len(PLANS))], dim=1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the probability that each customer leaves.

        Shapes:
            rows: [any, 5]. Returns: [any].
        """
        return torch.sigmoid(self.layers(rows))[:, 0]

    def tensors_to_outputs(self, probabilities: torch.Tensor) -> "dict[str, list]":
        """Name the answer, and say it in a word as well.

        Shapes:
            probabilities: [any].
        """
        return {
            "probability": probabilities.tolist(),
            "verdict": ["leaves" if each else "stays" for each in (probabilities > 0.5).tolist()],
        }
