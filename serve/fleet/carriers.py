"""What carries the keys of a fleet: `etcd:URL,URL/PREFIX`, or `ray:/DIRECTORY`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from serve.fleet.etcd import Etcd
from serve.fleet.etcd import connect as connect_etcd

if TYPE_CHECKING:
    from serve.fleet.ray_keys import RayKeys
    from serve.settings.settings import Settings

    Keys = Union[Etcd, RayKeys]


def connect(settings: Settings) -> Keys:
    """Open the shared keys of a model; raises `FleetError` where what carries them is not installed."""
    carrier, _, directory = settings.fleet.partition(":")
    if carrier == "etcd":
        return connect_etcd(settings)
    # Here and not above: it takes seconds, and only those who have a cluster have it.
    from serve.fleet.ray_keys import RayKeys

    return RayKeys(directory, f"{settings.name}@{settings.label}")
