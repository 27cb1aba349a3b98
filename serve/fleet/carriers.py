"""What carries the keys of a fleet: `etcd:URL,URL/PREFIX`, or `ray:/DIRECTORY`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from serve.fleet.etcd import Etcd

if TYPE_CHECKING:
    from serve.fleet.ray_keys import RayKeys
    from serve.settings.settings import Settings

    Keys = Union[Etcd, RayKeys]


def connect(settings: Settings) -> Keys:
    """Open the shared keys of a model; raises `FleetError` where what carries them is not installed."""
    carrier, _, place = settings.fleet.partition(":")
    if carrier == "etcd":
        *before, last = place.split(",")
        scheme, _, rest = last.partition("://")
        host, _, prefix = rest.partition("/")
        urls = (*before, f"{scheme}://{host}")
        return Etcd(urls, f"{prefix}/{settings.name}/{settings.label}/", settings.fleet_secrets)
    # Here and not above: it takes seconds, and only those who have a cluster have it.
    from serve.fleet.ray_keys import RayKeys

    return RayKeys(place, f"{settings.name}@{settings.label}")
