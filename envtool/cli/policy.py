"""`envtool policy`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from envtool import console
from envtool import policy as rules
from envtool.atomic_files import write_atomically
from envtool.cli import options
from envtool.errors import MissingFileError
from envtool.install.request import Request
from envtool.prefix.prefix import Prefix
from envtool.solve.md5_completion import read_complete


@click.command("policy")
@options.environment_options
@options.file_option
@click.option("--policy", "policy_path", type=options.PATH, help="The policy.  [default: the one of this machine]")
@click.option("-o", "--report", type=options.PATH, help="Also write the answer to this file, which a server reads.")
@options.json_option
@click.pass_context
def command(
    ctx: click.Context, prefix: Prefix, lockfile_path: Path, policy_path: Path | None, report: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Ask whether an environment still fits the policy of this machine; no network is used.

    A vulnerability may become known long after an environment was made: run this from a timer, and a server whose
    policy names the report shows what is new. docs/how-to/policy.md has every rule. Exit code 1 when a rule is broken.

    \b
    Examples:
      envtool policy -n serving
      envtool policy -n serving -o /var/lib/envserve/policy.json
    """
    receipt = prefix.require_whole()
    policy = rules.Policy(policy_path) if policy_path else rules.find()
    if policy.path is None:
        message = f"there is no policy: neither {rules.VARIABLE} nor {rules.DEFAULT}"
        raise MissingFileError(message, "docs/how-to/policy.md shows one; name it with --policy")
    request = Request(read_complete(lockfile_path), receipt.platform, receipt.categories, options.command_line())
    digest = receipt.env_digest or rules.UNKNOWN_DIGEST
    found = [asdict(each) for each in policy.breaches(request, lockfile_path, digest)]
    checked = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    answer = {"env_digest": receipt.env_digest, "checked": checked, "policy": str(policy.path), "breaches": found}
    if report:
        write_atomically(report, json.dumps(answer, indent=1) + "\n")
    if as_json:
        console.answer_json(answer)
    for each in found if not as_json else ():
        console.answer(f"{each['rule']}: {each['message']}\n  way out: {each['way_out']}")
    console.say(f"{len(found)} rules of {policy.path} are broken" if found else f"{policy.path} allows it")
    ctx.exit(1 if found else 0)
