"""`envtool channel mirror` and `serve`: channels for other machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths
from envtool.channel import mirror as mirror_module
from envtool.channel.storage import Storage
from envtool.cli.channel_contents import key_option
from envtool.cli.options import json_option
from envtool.fetch.archive_cache import Cache
from envtool.solve.md5_completion import read_complete


@click.command()
@click.argument("place", metavar="DIR|s3://BUCKET/PREFIX")
@click.option("--lock", "lockfile_path", type=click.Path(path_type=Path), default=Path("conda-lock.yml"),
              show_default=True, help="The lockfile.")  # fmt: skip
@click.option("--public-url", metavar="URL", help="Where other machines find it.  [default: what the place is called]")
@key_option
@json_option
def mirror(place: str, lockfile_path: Path, public_url: str | None, key_file: Path | None, as_json: bool) -> None:
    """Make a channel that holds exactly what a lock needs.

    It serves all platforms of the lock. Every archive and wheel is proven first. What is right already stays untouched,
    so that rsync moves what is new; what the lock does not need any more is removed. The answer is the variable that
    makes `envtool create` use it.

    \b
    Examples:
      envtool channel mirror --lock conda-lock.yml /srv/mirror
      envtool channel mirror s3://our-bucket/mirror
    """
    lockfile = read_complete(lockfile_path)
    with console.ProgressDisplay() as display:
        cache = Cache(paths.cache())
        made = mirror_module.mirror(lockfile, _place(place), cache, display, key_file=key_file)
    mirrors = made.mirrors
    if public_url:
        mirrors = {each: f"{public_url.rstrip('/')}/{url[len(made.url) :]}" for each, url in mirrors.items()}
    if as_json:
        console.answer_json({**asdict(made), "mirrors": mirrors})
        return
    console.say(f"{made.url}: {made.files} archives and wheels, {len(made.moved)} moved, {len(made.removed)} removed")
    pairs = " ".join(f"{canonical}={url}" for canonical, url in mirrors.items())
    console.answer(f"ENVTOOL_MIRRORS='{pairs}'")


def _place(name: str) -> Storage:
    from envtool.channel.storage import DirectoryStorage, S3Storage

    return S3Storage(name) if name.startswith("s3://") else DirectoryStorage(Path(name))


@click.command()
@click.argument("channel", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--bind", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS:PORT", help="Where to listen.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at once in each.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="A file with the token that each request has to bring.  [default: ENVTOOL_CHANNEL_TOKEN, or none]",
)  # fmt: skip
def serve(channel: Path, bind: str, workers: int, threads: int, token_file: Path | None) -> None:
    """Serve a channel over HTTP, read-only.

    It runs until Ctrl-C, and needs the extra [web]. Clients bring the token as `Authorization: Bearer`, as the password
    of Basic, or in the path as http://HOST/t/TOKEN/ . It is never on the command line, which everybody on the machine
    can read.
    """
    import os

    from envtool.channel import server
    from envtool.yaml_document import read_text

    token = os.environ.get("ENVTOOL_CHANNEL_TOKEN", "")
    if token_file:
        token = read_text(token_file, "write the token into it").strip()
        if not token:
            raise click.UsageError(f"{token_file} is empty")
    server.serve(channel.absolute(), bind, workers, threads, token or None)
