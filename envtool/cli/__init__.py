"""The command line: commands are imported on demand, and a typo gets the nearest name."""

from __future__ import annotations

import click

from envserve.commands import LazyGroup

# The summaries are here so that `--help` imports no command.
COMMANDS = {
    "init": ("envtool.cli.init", "Write environment.yml from a template or a project's files."),
    "lock": ("envtool.cli.lock", "Choose every package and write conda-lock.yml."),
    "diff": ("envtool.cli.diff:diff", "Show how two locks differ."),
    "tree": ("envtool.cli.graph:tree", "Show what each package of a lock needs."),
    "why": ("envtool.cli.graph:why", "Say why a package is in a lock."),
    "why-not": ("envtool.cli.lock:why_not", "Show what holds back a version."),
    "outdated": ("envtool.cli.lock:outdated", "Show newer versions, and what holds them back."),
    "audit": ("envtool.cli.audit", "Look up known vulnerabilities and licences."),
    "policy": ("envtool.cli.policy", "Ask whether an environment fits this machine's policy."),
    "export": ("envtool.cli.export", "Write a lock in the format of another tool."),
    "merge-driver": ("envtool.cli.diff:merge_driver", "Let git merge locks."),
    "create": ("envtool.cli.create", "Make an environment equal to a lock."),
    "verify": ("envtool.cli.verify:verify", "Prove that an environment is exactly what its lock states."),
    "digest": ("envtool.cli.verify:digest", "Compute the env digest of an environment."),
    "run": ("envtool.cli.environments:run", "Run a program in an environment."),
    "shell": ("envtool.cli.environments:shell", "Open a shell in an environment."),
    "activate": ("envtool.cli.environments:activate", "Activate an environment in this shell."),
    "shell-hook": ("envtool.cli.environments:shell_hook", "Let a shell activate environments."),
    "list": ("envtool.cli.environments:list_", "Show the environments that envtool made."),
    "remove": ("envtool.cli.environments:remove", "Remove an environment."),
    "cache": ("envtool.cli.cache", "See what the cache takes, and make room."),
    "image": ("envtool.cli.image", "Make an OCI image straight from a lock."),
    "channel": ("envtool.cli.channel", "Make conda channels of your own."),
    "bundle": ("envtool.cli.bundle", "Carry an environment to a machine without a network."),
    "mirror": ("envtool.cli.mirror", "Find, measure and use mirrors of channels and wheels."),
    "doctor": ("envtool.cli.doctor", "Find what on this machine would break an environment."),
    "deploy": ("envtool.cli.deploy", "Serve on real machines: units, sites, releases."),
    "ci": ("envtool.cli.ci", "Check that a lock is fresh, available and reproducible."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 an error with a hint, 70 a fault of envtool, "
    "130 interrupted; of `envtool ci` also 10 stale, 11 unreachable, 12 irreproducible, 13 vulnerable.",
)
@click.version_option(None, "-V", "--version", package_name="envserve", prog_name="envtool")
def cli() -> None:
    """Lock a conda environment, make it on any machine byte for byte, and prove it.

    \b
    A first environment:
      envtool init                          write environment.yml from a template
      envtool lock                          choose every package, write conda-lock.yml
      envtool create -n NAME                make the environment that the lock describes
      envtool verify -n NAME                prove that it is exactly that
      envtool run -n NAME -- python ...     use it
    """
