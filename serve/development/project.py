"""A project that runs: model class, training, settings, environment, test and CI, from the examples.

Or a TorchServe model archive (`.mar`), carried over. Follows the manifest that torch-model-archiver 0.12 writes
(`MAR-INF/MANIFEST.json`), and TorchServe's documents of its `config.properties` and its handler `image_classifier`."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from serve.development.target import find_classes
from serve.errors import OperationError
from serve.publishing.publish import publish

TASKS = ("tabular", "image", "text", "sequence")
_IGNORED = shutil.ignore_patterns("__pycache__", "checkpoints", "store")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def create_project(directory: Path, task: str) -> Path:
    """Write a project for one of `TASKS`, named as the directory is, whole or not at all; raises `OperationError`."""
    if not _NAME.fullmatch(directory.name):
        raise OperationError(f"the name: expected letters, digits, - and _, found {directory.name!r}")
    with new_directory(directory) as made:
        examples = Path(__file__).parent.parent / "examples"
        if not examples.is_dir():  # not in an installed package, but at the root of a checkout
            examples = examples.parent.parent / "examples"
        shutil.copytree(examples / task, made, ignore=_IGNORED, dirs_exist_ok=True)
        for source in sorted((examples / "project").rglob("*")):
            target = made / source.relative_to(examples / "project")
            if source.is_file():
                target = target.with_name(".gitignore") if target.name == "gitignore" else target
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source.read_text("utf-8").replace("{{ name }}", directory.name), "utf-8")
    return directory


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Give a directory to write into, which takes its place at the end of the block; `OperationError`: it has files."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OperationError(f"{directory}: expected no such directory, or an empty one", hint="give another name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as place:
        made = Path(place) / directory.name
        made.mkdir()
        yield made
        made.replace(directory)


_MANIFEST = "MAR-INF/MANIFEST.json"
_LONGEST_BYTES = 64 * 1024**3
_IMAGES, _NAMES = "image_classifier", "index_to_name.json"
# TorchServe's keys, ours, and how a value becomes one of ours.
_SETTINGS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "inference_address": ("bind", lambda text: text.rpartition("/")[2]),
    "default_workers_per_model": ("workers", int),
    "job_queue_size": ("max_queue", int),
    "max_request_size": ("max_body_bytes", int),
    "default_response_timeout": ("request_timeout_s", float),
    "cors_allowed_origin": ("cors_origins", lambda text: [text]),
}
_OF_MODEL = {"batchSize": "max_batch_size", "maxBatchDelay": "max_batch_delay_ms"}

_HEADER = '''"""The model of {archive}, carried over from TorchServe."""

'''
_EAGER = '''class Model({name}):
    """Served with the weights of the archive."""

'''
_SCRIPTED = '''class Model:
    """What becomes of a request; the module is in the checkpoint (TorchScript)."""

'''
_NO_EXAMPLE = """    # Inputs as a request has them; without this line, `serve check` guesses some.
    # example_inputs = [[0.0] * 16]
"""
_OF_IMAGES = '''    example_inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)).tolist()

    def image_to_inputs(self, pixels):
        """Scale the shorter side to 256, cut 224 by 224 out of the middle, and normalise as for ImageNet."""
        image = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
        scale = 256 / min(image.shape[2:])
        size = [max(256, round(scale * side)) for side in image.shape[2:]]
        image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
        top, left = ((side - 224) // 2 for side in size)
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        return ((image[:, :, top : top + 224, left : left + 224] - mean) / deviation).numpy()

    def tensors_to_outputs(self, scores):
        """Return the five likeliest classes of each image with their probabilities, as TorchServe does."""
        best, places = torch.softmax(scores, dim=1).topk(min(5, scores.shape[1]), dim=1)
        pairs = zip(best.tolist(), places.tolist())
        return [{NAMES.get(place, place): value for value, place in zip(*pair)} for pair in pairs]
'''


@dataclass(frozen=True)
class Imported:
    """What was carried over."""

    directory: Path
    checkpoint: Path
    notes: tuple[str, ...]  # what was not, and what to write in its place


def import_archive(archive: Path, directory: Path, config: Path | None = None) -> Imported:
    """Make a project of an archive, its weights a published checkpoint; raises `OperationError` or `PublishError`."""
    with new_directory(directory) as made:
        model = _unpack(archive, made)
        weights = made / str(model["serializedFile"])
        is_scripted = "modelFile" not in model
        notes = list(_notes_on(model))
        (made / "model.py").write_text(_write_class(archive, made, model), "utf-8")
        settings = {"model": "model:Model", "name": model["modelName"], "python_path": ["."]}
        settings.update({"checkpoints": "checkpoints", "store": "store"})
        settings.update({"format": "torchscript"} if is_scripted else {})
        settings.update(_read_config(config, str(model["modelName"]), notes) if config else {})
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (made / "serve.toml").write_text("\n".join(lines) + "\n", "utf-8")
        published = publish(weights, made / "checkpoints", version=str(model.get("modelVersion") or "1"))
        weights.unlink()
    return Imported(directory, directory / "checkpoints" / Path(published.checkpoint).name, tuple(notes))


def _unpack(archive: Path, directory: Path) -> Mapping[str, object]:
    """Write an archive's files, and return what its manifest has of the model."""
    try:
        with zipfile.ZipFile(archive) as opened:
            model = json.loads(opened.read(_MANIFEST))["model"]
            names = [member for member in opened.infolist() if not member.filename.startswith("MAR-INF/")]
            if sum(member.file_size for member in names) > _LONGEST_BYTES:
                raise OperationError(f"{archive}: expected at most {_LONGEST_BYTES} bytes, found more")
            opened.extractall(directory, names)  # which keeps names inside the directory
        # Names alone, as the tool writes them: what it states may be anybody's, and the weights are moved from there.
        files = {key: Path(str(model[key])).name for key in ("serializedFile", "modelFile") if key in model}
        if not all((directory / name).is_file() for name in (files["serializedFile"], *files.values())):
            raise KeyError(*files.values())
        return {**model, **files, "modelName": str(model["modelName"])}
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"expected a model archive with {_MANIFEST} and weights, found {type(error).__name__}: {error}"
        raise OperationError(f"{archive}: {said}", hint="name what torch-model-archiver wrote") from error


def _write_class(archive: Path, directory: Path, model: Mapping[str, object]) -> str:
    """Write the model class."""
    is_of_images = model.get("handler") == _IMAGES
    head = _HEADER.format(archive=archive.name) + ("import torch\n" if is_of_images else "")
    body = _SCRIPTED
    if "modelFile" in model:
        source = directory / str(model["modelFile"])
        names = find_classes(source)
        if not names:
            raise OperationError(f"{source.name}: expected a class that extends torch.nn.Module, found none")
        if source.stem == "model":  # our file has that name
            source = source.replace(directory / "archived_model.py")
        head += f"from {source.stem} import {names[-1]}\n"
        body = _EAGER.format(name=names[-1])
    if not is_of_images:
        return f"{head}\n\n{body}{_NO_EXAMPLE}"
    names_file = directory / _NAMES
    try:
        stated = json.loads(names_file.read_text("utf-8")) if names_file.is_file() else {}
        table = {int(key): value if isinstance(value, str) else value[-1] for key, value in stated.items()}
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise OperationError(f"{_NAMES}: expected names by the number of their class, found {error}") from error
    return f"{head}\nNAMES = {table!r}\n\n\n{body}{_OF_IMAGES}"


def _notes_on(model: Mapping[str, object]) -> Iterator[str]:
    handler = str(model.get("handler"))
    if handler.endswith(".py") or ":" in handler:
        yield (
            f"the handler {handler} is copied and not used: its preprocess() belongs into inputs_to_tensors(), "
            "inference() into run_module(), postprocess() into tensors_to_outputs() of model.py"
        )
    elif handler not in (_IMAGES, "base_handler"):
        yield f"the handler {handler} has no counterpart: write inputs_to_tensors() and tensors_to_outputs()"
    if "requirementsFile" in model:
        yield f"{model['requirementsFile']}: add its lines to the pip section of environment.yml"


def _read_config(config: Path, name: str, notes: list[str]) -> dict[str, object]:
    """Read what `config.properties` has for us; the names of other keys are added to the notes."""
    found: dict[str, object] = {}
    try:
        lines = re.sub(r"\\\s*\n\s*", "", config.read_text("utf-8")).splitlines()
        pairs = [line.partition("=")[::2] for line in lines if line.strip() and line.lstrip()[0] not in "#!"]
        stated = {key.strip(): value.strip() for key, value in pairs}
        for key, value in stated.items():
            if key in _SETTINGS and value not in ("", "0"):
                ours, convert = _SETTINGS[key]
                found[ours] = convert(value)
            elif key == "models":
                versions = json.loads(value).get(name, {})
                for about in list(versions.values())[-1:]:
                    found.update({ours: about[theirs] for theirs, ours in _OF_MODEL.items() if theirs in about})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OperationError(f"{config}: {error}", hint="name TorchServe's config.properties") from error
    left = sorted(set(stated) - set(_SETTINGS) - {"models"})
    if left:
        notes.append(f"not carried over from {config.name}: {', '.join(left)}")
    return found
