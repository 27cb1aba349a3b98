"""A channel without records that are too young, for cut-offs that differ between packages or channels.

The time of a record is its `indexed_timestamp`, set by the channel's server, where there is one and this py-rattler
reads it; otherwise its `timestamp`, set by the builder of the package. Source: CEP 47.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envtool.fetch import credentials
from envtool.spec.version_policy import VersionPolicy


class AgedChannel:
    """What py-rattler asks for the records of a channel."""

    def __init__(self, gateway: Any, channel: str, names: Mapping[str, Sequence[str]], policy: VersionPolicy) -> None:
        self._gateway = gateway
        self._channel = channel
        self._names = names
        self._policy = policy

    async def fetch_package_records(self, platform: Any, name: Any) -> list[Any]:
        """The records of a package that are old enough."""
        found = await self._gateway.query([self._channel], [str(platform)], [name.normalized], recursive=False)
        return [each for records in found for each in records if not is_too_young(each, self._policy)]

    def package_names(self, platform: Any) -> list[str]:
        """The packages of a subdir."""
        return list(self._names.get(str(platform), ()))


def is_too_young(record: Any, policy: VersionPolicy) -> bool:
    """Whether a record counts as published too late; one without any time does, as nothing is known of its age."""
    channel = credentials.strip(record.url).rsplit("/", 2)[0]
    cutoff = policy.cutoff_of(record.name.normalized, channel)
    if cutoff is None:
        return False
    published = getattr(record, "indexed_timestamp", None) or record.timestamp
    return published is None or published > cutoff
