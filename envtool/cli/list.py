"""`envtool list`."""

from __future__ import annotations

import click

from envtool import console
from envtool.cli.options import json_option
from envtool.prefix.environments import environments


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """Show the environments that envtool made, with the env digest of each."""
    found = environments()
    if as_json:
        rows = [(str(each.path), each.state.value, each.env_digest, each.package_count) for each in found]
        console.answer_json([dict(zip(("prefix", "state", "env_digest", "packages"), row)) for row in rows])
        return
    if not found:
        console.say("no environments yet; envtool create makes one from a lock")
    for each in found:
        digest = (each.env_digest or "")[:16]
        console.answer(f"{each.state.value:10}  {digest:16}  {each.package_count:4} packages  {each.path}")
