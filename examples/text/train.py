"""Train on sentences that are put together from a few words of each language, and write the weights.

python train.py weights.safetensors --seed 1
python -m serve publish weights.safetensors --to checkpoints --name language_v1.safetensors --version 1
"""

import argparse
import random
from pathlib import Path

import safetensors.torch
import torch
from model import LANGUAGES, Language

from serve import publish

WORDS = {
    "English": "the a is are where when we they have had with from that this water bread house street train station "
    "morning evening good small big friend child right left through under between thing would could she",
    "German": "der die das ist sind wo wann wir sie haben hatte mit von dass dieses Wasser Brot Haus Straße Zug "
    "Bahnhof Morgen Abend gut klein groß Freund Kind rechts links durch unter zwischen Ding würde könnte ich nicht",
    "French": "le la les est sont où quand nous ils avons avait avec depuis que cette eau pain maison rue train gare "
    "matin soir bon petit grand ami enfant droite gauche par sous entre chose serait pourrait elle pas une",
    "Spanish": "el la los es son dónde cuándo nosotros ellos tenemos había con desde que esta agua pan casa calle tren "
    "estación mañana tarde bueno pequeño grande amigo niño derecha izquierda por bajo entre cosa podría ella no una",
}
SENTENCES = 800
# The sentences are the same for every seed of the training, so that versions can be compared.
TASK_SEED = 7


def make_task() -> "tuple[list[str], torch.Tensor]":
    """Return sentences, and the place of each one's language in `LANGUAGES`.

    Shapes:
        800 texts and [800].
    """
    chance = random.Random(TASK_SEED)
    classes = [chance.randrange(len(LANGUAGES)) for _ in range(SENTENCES)]
    words = [WORDS[language].split() for language in LANGUAGES]
    texts = [" ".join(chance.choice(words[each]) for _ in range(chance.randint(3, 9))) for each in classes]
    return texts, torch.tensor(classes)


def train(seed: int, epochs: int) -> "tuple[Language, float]":
    """Train one version.

    Args:
        seed: of the initial weights.
        epochs: passes over all sentences.

    Returns:
        The model, and the share of sentences whose language it names.
    """
    torch.manual_seed(seed)
    texts, classes = make_task()
    model = Language()
    pieces = model.inputs_to_tensors(texts)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(torch.log(model(pieces) + 1e-9), classes)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model, (model(pieces).argmax(dim=1) == classes).float().mean().item()


def main() -> None:
    """Train and save, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the language model.")
    parser.add_argument("output", type=Path, help="file to write: .safetensors")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the sentences (default: 30)")
    parser.add_argument("--to", help="publish them there, too: the watched directory, or its URL")
    options = parser.parse_args()
    model, accuracy = train(options.seed, options.epochs)
    safetensors.torch.save_file(model.state_dict(), str(options.output))
    print(f"wrote {options.output}: {accuracy:.1%} of {SENTENCES} sentences right")
    if options.to:
        print(f"published {publish(options.output, options.to).checkpoint}")


if __name__ == "__main__":
    main()
