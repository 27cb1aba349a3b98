"""A package index on the loopback interface, with the wheels that a test makes, and what conda brings beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from envtool.pypi.distributions import Provided
from envtool.solve.conda_solver import PackageRecord
from tests.support.mirror_simulator import MirrorSimulator
from tests.support.wheels import write_wheel

_NOWHERE = "http://127.0.0.1:9/noarch/none-1-0.conda"


class PackageIndex:
    """An index.

    Args:
        mirror: What serves it.
        directory: Where its wheels are made.
    """

    def __init__(self, mirror: MirrorSimulator, directory: Path) -> None:
        self._mirror = mirror
        self._directory = directory
        self._pages: dict[str, list[str]] = {}
        self.url = f"{mirror.url}simple/"

    @property
    def asked_for(self) -> set[str]:
        """The names whose page was asked for."""
        return {request.path.split("/")[1] for request in self._mirror.requests if request.path.startswith("simple/")}

    def add(
        self, name: str, version: str = "1.0", needs: Sequence[str] = (), *, more: str = "", tag: str = "py3-none-any"
    ) -> tuple[Path, str]:
        """Publish a wheel; its file and its URL.

        Args:
            name: The distribution.
            version: Its version.
            needs: Its requirements.
            more: More lines of METADATA.
            tag: Of its file.
        """
        metadata = "".join(f"Requires-Dist: {need}\n" for need in needs) + more
        module = {f"{name.replace('-', '_')}.py": f"tag = {tag!r}\n"}
        wheel = write_wheel(self._directory, name.replace("-", "_"), version, module, {}, metadata=metadata, tag=tag)
        url = self._mirror.put(f"packages/{wheel.name}", wheel)
        self._mirror.put(
            f"packages/{wheel.name}.metadata",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}".encode(),
        )
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        page = self._pages.setdefault(name, ["<!DOCTYPE html>"])
        page.append(f'<a href="{url}#sha256={sha256}">{wheel.name}</a>')
        self._mirror.put(f"simple/{name}/", "\n".join(page).encode())
        return wheel, url


def provided(
    name: str, version: str, package: str = "", url: str = "http://127.0.0.1:9/noarch/none-1-0.conda"
) -> dict[str, Provided]:
    """What a conda package brings, as `WheelRequest.provided` takes it."""
    record = PackageRecord(package or name, version, "0", "noarch", url, None, None, None, ("python",))
    return {name: Provided(name, version, record)}
