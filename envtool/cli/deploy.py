"""`envtool deploy`: files for other tools, and releases that replace each other under traffic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from envtool import console, paths, policy
from envtool.cli import CommandGroup, options
from envtool.cli.init import compare_rendered, describe_variables, pair, write_rendered
from envtool.deploy.apply import ApplyOptions, Outcome, roll_back
from envtool.deploy.apply import apply as carry_out
from envtool.deploy.gunicorn_handover import look
from envtool.deploy.release_directory import ReleaseDirectory
from envtool.fetch.archive_cache import Cache
from envtool.install.request import Request
from envtool.solve.md5_completion import read_complete
from envtool.templates import Template, find_kind, kinds
from envtool.templates import render as render_template
from envtool.yaml_document import read_text

root_argument = click.argument("root", type=click.Path(path_type=Path, file_okay=False))
health_option = click.option("--health", default="/readyz", show_default=True, metavar="PATH",
                             help="What is asked to see whether a server is well.")  # fmt: skip
limit_option = click.option("--timeout", "limit_s", type=click.FloatRange(min=1), default=120.0, show_default=True,
                            metavar="SECONDS", help="How long a release has until it is well.")  # fmt: skip


@click.group("deploy", cls=CommandGroup)
def command() -> None:
    """Serve on real machines.

    \b
    Files for other tools:
      envtool deploy list                         what can be made
      envtool deploy explain systemd              what it is, and what it takes
      envtool deploy render systemd --set user=ml

    \b
    Releases on this machine:
      envtool deploy apply /srv/envserve          bring the service to conda-lock.yml
      envtool deploy status /srv/envserve
      envtool deploy rollback /srv/envserve
    """


@command.command()
@root_argument
@options.file_option
@options.machine_platform_option
@options.installed_category_option
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="How many releases to keep.")
@click.option("--app", default="serve.wsgi:app", show_default=True, help="The WSGI application, for the first apply.")
@click.option("--app-dir", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
              help="The code and settings that become part of the release.  [default: ROOT/app, unless it is empty]",
)  # fmt: skip
@health_option
@limit_option
@click.option("--offline", is_flag=True, help="Use only the cache; list what is missing from it.")
@options.json_option
def apply(
    root: Path, lockfile_path: Path, platform: str | None, categories: tuple[str, ...], keep: int, app: str,
    app_dir: Path | None, health: str, limit_s: float, offline: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring a service to a lock, its code and its settings.

    No request to the service in the directory ROOT is lost. The environment is made and verified, and ROOT/app is
    copied: both are the release, which is named by what they hold. One worker of it is started on a socket of its own
    and asked whether it is well; then `current` is switched and gunicorn hands over: the new master takes requests
    before the old one ends. When anything fails, what served before serves on. Nothing is done when the release is
    served already. An apply that was stopped, however, is settled by the next one.

    Run it as the user that the service runs as. A server that does not run is not started: that is systemd's part.

    \b
    Examples:
      envtool deploy apply /srv/envserve
      envtool deploy apply /srv/envserve -f conda-lock.yml --keep 5
    """
    lockfile = read_complete(lockfile_path, is_offline=offline)
    request = Request(
        lockfile, platform or options.this_platform(), categories, options.command_line(), is_offline=offline
    )
    policy.require(request, lockfile_path)
    wishes = ApplyOptions(app, app_dir, health, limit_s, keep)
    place = ReleaseDirectory(root)
    with console.ProgressDisplay() as display:
        outcome = carry_out(place, request, wishes, Cache(paths.cache()), display)
    _tell(place.path, outcome, as_json=as_json)


@command.command()
@root_argument
@click.option("--to", "digest", metavar="DIGEST",
              help="The release, or its beginning.  [default: the one before the current]")  # fmt: skip
@health_option
@limit_option
@options.json_option
def rollback(root: Path, digest: str | None, health: str, limit_s: float, as_json: bool) -> None:
    """Bring a service back to an earlier release.

    No request to the service in the directory ROOT is lost. Environment, code and settings go back together. ROOT/app
    stays as it is: the next apply takes it again.
    """
    place = ReleaseDirectory(root)
    with console.ProgressDisplay() as display:
        outcome = roll_back(place, digest, ApplyOptions(health=health, limit_s=limit_s), display)
    _tell(place.path, outcome, as_json=as_json)


@command.command()
@root_argument
@health_option
@options.json_option
@click.pass_context
def status(ctx: click.Context, root: Path, health: str, as_json: bool) -> None:
    """Show the releases in ROOT and what runs.

    Exit code 1 unless the current release serves and is healthy.
    """
    found = look(ReleaseDirectory(root), health)
    if as_json:
        releases = [{"digest": each.digest, **asdict(each)} for each in found.releases]
        console.answer_json({**asdict(found), "releases": releases, "is_well": found.trouble is None})
    else:
        for each in found.releases:
            mark = "*" if each.digest == found.current else " "
            app = f", app {each.app_digest[:12]}" if each.app_digest else ""
            parts = f"environment {each.env_digest[:12]}, {each.package_count} packages{app}"
            console.answer(f"{mark} {each.digest[:12]}  made {each.made}  {parts}")
        for process in found.running:
            where = ", ".join(process.listeners)
            console.answer(f"master {process.pid} serves {process.release[:12]} at {where}, {process.workers} workers")
        console.say(found.trouble or "the current release serves and is well")
    ctx.exit(0 if found.trouble is None else 1)


def _tell(root: Path, outcome: Outcome, *, as_json: bool) -> None:
    release, digest = outcome.release, outcome.release.digest
    if as_json:
        digests = {"release": digest, "env_digest": release.env_digest, "app_digest": release.app_digest}
        said = {"previous": outcome.previous, "changed": outcome.is_changed, "serving": outcome.is_serving}
        console.answer_json({**digests, **said})
    elif not outcome.is_changed:
        console.say(f"nothing to do: release {digest} is current already")
    else:
        before = f", before it {outcome.previous}" if outcome.previous else ""
        console.say(f"release {digest} is current{before}")
    if not outcome.is_serving:
        console.say(f"nothing serves it yet: systemctl start it, or run {root}/start")


own_option = click.option("--templates", "own", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="A directory of templates of your own, with a directory deploy/.  [default: templates/ under ~/.envtool]",
)  # fmt: skip


@command.command("list")
@own_option
@options.json_option
def list_(own: Path | None, as_json: bool) -> None:
    """Show what can be made."""
    known = kinds(own)
    if as_json:
        console.answer_json({name: _kind_dict(each) for name, each in known.items()})
        return
    for name, each in known.items():
        console.answer(f"{name:18} {each.description}")


@command.command()
@click.argument("kind")
@own_option
@options.json_option
def explain(kind: str, own: Path | None, as_json: bool) -> None:
    """Show what KIND is and which variables it takes."""
    found = find_kind(kind, own)
    if as_json:
        console.answer_json(_kind_dict(found))
        return
    console.answer(f"{kind}: {found.description}\nusual name: {found.output}")
    for line in describe_variables(found):
        console.answer(line)


@command.command()
@click.argument("kind")
@click.option("-s", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a variable. Repeatable.")
@click.option("-o", "--output", type=options.PATH, help="Where to write.  [default: standard output]")
@own_option
@click.option("--force", is_flag=True, help="Overwrite a file with other content.")
@click.option("--check", "is_check", is_flag=True,
              help="Only say whether OUTPUT is what would be written; exit code 1 when not.")  # fmt: skip
@click.pass_context
def render(
    ctx: click.Context, kind: str, settings: tuple[str, ...], output: Path | None, own: Path | None, force: bool,
    is_check: bool,
) -> None:  # fmt: skip
    """Make a file of KIND from its template.

    Every variable has a value that is safe, or has to be given. Nothing that is rendered listens on a public address
    unless it is asked to.

    \b
    Examples:
      envtool deploy render systemd -o /etc/systemd/system/envserve.service
      envtool deploy render nginx --set server_name=models.example.org
      envtool deploy render github --set install='envserve[envtool]' -o .github/workflows/reproducible.yml --check
    """
    if is_check and output is None:
        raise click.UsageError("--check compares a file; name it with -o")
    found = find_kind(kind, own)
    text = render_template(found, dict(pair(each) for each in settings))
    if output is None:
        console.answer(text.rstrip("\n"))
    elif is_check:
        actual = read_text(output, "envtool deploy render makes it")
        ctx.exit(compare_rendered(text, actual, output, found.name))
    else:
        write_rendered(text, output, "--check shows how they differ, --force writes over", force=force)
        if text.startswith("#!"):
            output.chmod(0o755)
        console.say(f"wrote {output}")


def _kind_dict(kind: Template) -> dict[str, Any]:
    variables = [asdict(each) for each in kind.variables]
    return {"description": kind.description, "output": kind.output, "variables": variables}
