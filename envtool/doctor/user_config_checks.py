"""Checks of what surrounds an environment: settings of conda, pip and Python that reach into it from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from envtool.doctor.finding import Finding, Severity
from envtool.doctor.machine_facts import MachineFacts, Needs

_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

# Keys of .condarc that change what conda does to an environment of ours, or say that something is wrong.
_CONDARC = {
    "ssl_verify": ("false", _WARNING, "conda checks no certificates", "remove ssl_verify; name your CA file instead"),
    "offline": ("true", _NOTE, "conda itself asks no channel", "envtool does not read this; see create --offline"),
    "pip_interop_enabled": (
        "true", _WARNING, "conda may replace wheels of an environment by conda packages",
        "remove it, or make environments with envtool create --frozen",
    ),
    "always_yes": (
        "true", _NOTE, "conda changes an environment without asking", "envtool create --frozen keeps it from doing so"
    ),
    "auto_update_conda": ("true", _NOTE, "conda updates itself", "nothing of envtool depends on it"),
}  # fmt: skip
_PYTHON = {
    "PYTHONPATH": "Python looks there first, in every environment",
    "PYTHONHOME": "no Python but that one finds its own library",
    "PYTHONSTARTUP": "it runs in every interactive Python",
    "LD_LIBRARY_PATH": "programs take the libraries there instead of the environment's own",
    "LD_PRELOAD": "it is loaded into every program",
    "PIP_TARGET": "pip installs there instead of into an environment",
    "PIP_PREFIX": "pip installs there instead of into an environment",
    "PIP_USER": "pip installs for the user instead of into an environment",
}
_CUDA_HOMES = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT")
_SHOWN = 4
_DROPPED_BY_RUN = ("PYTHONPATH", "PYTHONHOME")


def check_conda(facts: MachineFacts) -> Iterator[Finding]:
    """Settings of conda that interfere."""
    for each in facts.condarc:
        for key, (value, severity, what, hint) in _CONDARC.items():
            if each.keys.get(key, "").lower() == value:
                yield Finding(severity, "conda", f"{each.path} has {key}: {value}: {what}", hint)
        if "channel_alias" in each.keys:
            message = f"{each.path} has channel_alias: conda means other channels by the same names"
            yield Finding(_NOTE, "conda", message, "locks of envtool name channels by their whole URL")


def check_python(facts: MachineFacts) -> Iterator[Finding]:
    """Settings of Python, pip and the loader that reach into every environment."""
    for name, what in _PYTHON.items():
        if facts.environ.get(name):
            helped = "envtool run takes it away; unset it for activated shells" if name in _DROPPED_BY_RUN else ""
            yield Finding(_WARNING, "python", f"{name} is set: {what}", helped or f"unset {name}")
    if not facts.environ.get("PYTHONNOUSERSITE"):
        for path in facts.user_packages:
            message = f"{path} has packages, which every Python of that version sees before those of an environment"
            yield Finding(_WARNING, "python", message, "export PYTHONNOUSERSITE=1, or remove them")


def check_cuda(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    """A CUDA of the system that takes the place of the environment's."""
    for shadow in facts.shadows:
        if shadow.path.name == "stubs":
            message = f"LD_LIBRARY_PATH has {shadow.path}, whose libcuda.so is a stub that finds no GPU"
            yield Finding(_ERROR, "cuda", message, f"take {shadow.path} out of LD_LIBRARY_PATH")
        elif names := [each for each in shadow.libraries if needs.cuda and not each.startswith("libcuda.so")]:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"{', '.join(names[:_SHOWN])}{more}"
            message = f"LD_LIBRARY_PATH has {shadow.path}, whose {what} are loaded instead of the environment's"
            yield Finding(_WARNING, "cuda", message, "unset LD_LIBRARY_PATH; an environment finds its libraries itself")
    for name in _CUDA_HOMES:
        place = facts.environ.get(name)
        found = re.search(r"(\d+)\.(\d+)$", facts.links.get(place, place).rstrip("/")) if place else None
        if needs.cuda and found and found[0] != needs.cuda:
            message = f"{name} is {place}, CUDA {found[0]}, and the lock is built for CUDA {needs.cuda}"
            hint = f"unset {name}: what is compiled for the environment would be built for the other one"
            yield Finding(_WARNING, "cuda", message, hint)
