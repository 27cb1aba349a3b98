"""The model that a command line names: `model.py:Net`, `package.module:Net`, or the settings of the directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.errors import ModelError
from serve.settings.settings import CONFIG_VARIABLE, Settings, load_settings

_EXAMPLE = "serve run model.py:Net --weights weights.pt"
_CLASS = re.compile(r"^class\s+(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A model class as a command line names it, and what it is built with."""

    name: str | None  # `PATH.py:Class`, `module:Class`, a file with one class, or `None` for what the settings name
    arguments: Mapping[str, object]  # keyword arguments of the class
    example: object = None  # inputs as a request has them, or their form; `None` for those of the class

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables that make a server of it, with checkpoints and store in `home`; raises `ModelError`."""
        found = dict(os.environ)
        if self.name is not None:
            model, directory = _resolve(self.name)
            found.update(SERVE_MODEL=model, SERVE_PYTHON_PATH=str(directory))
            found[CONFIG_VARIABLE] = os.devnull  # a serve.toml that lies here is another model's
        found.update(SERVE_CHECKPOINTS=str(home / "checkpoints"), SERVE_STORE=str(home / "store"))
        if self.arguments:
            found["SERVE_MODEL_ARGS"] = json.dumps(self.arguments)
        if self.example is not None:
            found["SERVE_EXAMPLE_INPUTS"] = self.example if isinstance(self.example, str) else json.dumps(self.example)
        return found

    def settings(self, home: Path) -> Settings:
        """Return the settings of the sole model."""
        return load_settings(self.environment(home), Path.cwd()).find()


def parse_arguments(texts: Sequence[str]) -> dict[str, object]:
    """Read `NAME=VALUE` texts; a value is JSON where it can be read so; raises `ValueError` where one has no name."""
    found: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE, found {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def parse_example(text: str | None) -> object:
    """Read inputs as JSON, from a file (`@FILE`; raises `ValueError`), or their form, such as `float32[1, 16]`."""
    if text is None:
        return None
    try:
        text = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        return json.loads(text)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except ValueError:
        return text


def _resolve(name: str) -> tuple[str, Path]:
    """Return `module:Class`, and the directory in which the module is found."""
    place, _, class_name = name.partition(":")
    if not place.endswith(".py") and os.sep not in place:
        if not class_name:
            raise ModelError(f"{name}: expected module:Class or FILE.py:Class", hint=_EXAMPLE)
        return name, Path.cwd()
    path = Path(place).absolute()
    if not path.is_file():
        raise ModelError(f"{place}: file not found", hint=f"name a Python file and its class: {_EXAMPLE}")
    module, directory = path.stem, path.parent
    while (directory / "__init__.py").is_file():
        module, directory = f"{directory.name}.{module}", directory.parent
    if not class_name:
        classes = find_classes(path)
        if len(classes) != 1:
            found, write = ", ".join(classes) or "none", f"write a torch.nn.Module into it: {_EXAMPLE}"
            hint = f"name it: {path.name}:{classes[-1]}" if classes else write
            raise ModelError(f"{path.name}: expected one class, found {found}", hint)
        class_name = classes[0]
    return f"{module}:{class_name}", directory


def find_classes(path: Path) -> list[str]:
    """List the classes that a Python file defines at its top, in their order; nothing of it is run."""
    return _CLASS.findall(path.read_text(encoding="utf-8", errors="replace"))
