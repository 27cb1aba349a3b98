"""The metadata that a package index has beside a wheel."""

from __future__ import annotations

from envtool.errors import EnvtoolError
from envtool.mirrors import mirrors


def metadata_at(url: str) -> str | None:
    """The METADATA of a wheel by the wheel's URL, None where it cannot be downloaded.

    Source: PEP 658; the index has it beside the wheel.
    """
    from envtool.fetch import client

    for each in mirrors.configured().for_url(f"{url}.metadata"):
        try:
            with client.get(each) as body:
                return b"".join(body.chunks).decode("utf-8", "replace")
        except EnvtoolError:
            continue
    return None
