"""Checks of what surrounds an environment: settings of conda, pip and Python that reach into it from outside."""

from __future__ import annotations

from collections.abc import Iterator

from envtool.doctor.finding import Finding, Severity
from envtool.doctor.machine_facts import MachineFacts

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
