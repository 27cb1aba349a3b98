"""Virtual packages: properties of a machine (glibc, CUDA driver, kernel, CPU) that packages depend on.

They are declared in the specification when locking and detected when creating, never guessed from the locking machine.
"""

from __future__ import annotations

from collections.abc import Mapping

# What nearly every Linux machine in service has; CUDA is on no machine until a template declares it.
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "linux": {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"},
    "osx": {"__unix": "0", "__osx": "11.0"},
    "win": {"__win": "0"},
}
_ARCHSPECS = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "arm64": "arm64"}


def declared(platform: str, declarations: Mapping[str, str]) -> dict[str, str]:
    """The virtual packages to solve with.

    Args:
        declarations: what the specification declares for it, which wins over the defaults.

    Returns:
        Name to `version` or `version build`.
    """
    return {**_DEFAULTS[platform.partition("-")[0]], "__archspec": archspec(platform), **declarations}


def archspec(platform: str) -> str:
    """The version and build of `__archspec` on a platform."""
    return f"1 {_ARCHSPECS[platform.partition('-')[2]]}"
