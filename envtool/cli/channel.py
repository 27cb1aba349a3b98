"""`envtool channel`: channels of your own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths
from envtool.channel import edit
from envtool.channel import mirror as mirror_module
from envtool.channel.mirror import DirectoryStorage, S3Storage
from envtool.channel.python_recipe.build import build as build_channel
from envtool.cli import CommandGroup
from envtool.cli.init import pair
from envtool.cli.options import PATH, json_option
from envtool.errors import EnvtoolError
from envtool.fetch.archive_cache import Cache
from envtool.solve.md5_completion import read_complete
from envtool.wheels import to_conda
from envtool.yaml_document import read_text

_file = click.Path(path_type=Path, dir_okay=False)
_directory = click.Path(path_type=Path, file_okay=False, exists=True)
channel_argument = click.argument("channel", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
key_option = click.option("--key", "key_file", type=PATH, metavar="PEM",
                          help="Sign the index with this private key (Ed25519).")  # fmt: skip


@click.group("channel", cls=CommandGroup)
def command() -> None:
    """Make conda channels of your own.

    A channel is a directory, or a place on a web server, that conda, mamba, pixi and envtool install packages from.
    """


@command.command()
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="The channel's directory.  [default: channel/ in envtool's cache]")  # fmt: skip
@click.option("--debian-mirror", "debian_mirrors", multiple=True, metavar="URL", envvar="ENVTOOL_DEBIAN_MIRRORS",
    help="A mirror site that has debian/ and debian-security/, tried when the places that apt is configured for on "
    "this machine fail. May be given several times; ENVTOOL_DEBIAN_MIRRORS takes a list separated by spaces.",
)  # fmt: skip
@click.option("--wheel", "wheels", type=_file, multiple=True, metavar="FILE",
              help="Make a package of this wheel, in place of recipes. Repeatable.")  # fmt: skip
@click.option("--checkout", "checkouts", type=_directory, multiple=True, metavar="DIR",
              help="Make a package of this project, through its own pyproject.toml. Repeatable.")  # fmt: skip
@click.option("--python", "pythons", multiple=True, metavar="X.Y",
              help="The Python that packages are for, where a wheel runs on several. Repeatable.")  # fmt: skip
@click.option("--platform", help="The platform that packages are for, where wheels run on several.")
@click.option("--rename", "renames", multiple=True, metavar="NAME=CONDA",
              help="A distribution that has another name on conda: torch=pytorch. Repeatable.")  # fmt: skip
@click.option("--build-number", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of packages made from wheels and checkouts; the higher wins.")  # fmt: skip
@key_option
@json_option
def build(
    recipes: tuple[str, ...], output: Path | None, debian_mirrors: tuple[str, ...], wheels: tuple[Path, ...],
    checkouts: tuple[Path, ...], pythons: tuple[str, ...], platform: str | None, renames: tuple[str, ...],
    build_number: int, key_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Build the embedded channel, or packages of your own.

    The embedded channel is for machines that reach no conda channel. It holds Python 3.9, pip and envserve itself, made
    from files that their recipes pin by sha256: Debian's packages, one wheel, and this checkout. No root access,
    compiler or conda is needed. What is there already and has not changed is left as it is, so that a second run takes
    a moment. Without RECIPE all of them are built.

    The channel's URL is printed; put it into an environment.yml:

    \b
      channels:
        - file:///home/me/.cache/envtool/channel

    With --wheel or --checkout, packages of these are added to the channel instead. A wheel of Python only becomes
    noarch; a compiled one, a package for its platform and Python. What it needs becomes match specs.

    \b
    Examples:
      envtool channel build --checkout . --output /srv/channel
      envtool channel build --wheel ext-1.0-cp39-cp39-manylinux_2_28_x86_64.whl --output /srv/channel
    """
    place = (output or paths.cache() / "channel").absolute()
    if not (wheels or checkouts):
        _build_recipes(recipes, place, debian_mirrors, key_file, as_json=as_json)
    elif recipes:
        raise click.UsageError("RECIPE does not go with --wheel and --checkout")
    else:
        names = dict(pair(each) for each in renames)
        wishes = [to_conda.ConversionOptions(each, platform, names, build_number) for each in pythons or (None,)]
        _change(lambda display: edit.make(wheels, checkouts, wishes, place, display, key_file), as_json=as_json)


def _build_recipes(
    recipes: tuple[str, ...], place: Path, debian_mirrors: tuple[str, ...], key_file: Path | None, *, as_json: bool
) -> None:
    if key_file:
        raise click.UsageError(
            "--key goes with --wheel and --checkout; after recipes, envtool channel index DIR --key PEM"
        )
    with console.ProgressDisplay() as display:
        made = build_channel(recipes, place, cache=Cache(paths.cache()), display=display, debian_mirrors=debian_mirrors)
    for name, reason in made.left_out:
        console.warn(f"{name} is left out: {reason}")
    if as_json:
        packages = [asdict(each) for each in made.packages]
        console.answer_json({"url": made.url, "packages": packages, "left_out": dict(made.left_out)})
        return
    for each in made.packages:
        state = "built" if each.was_built else "up to date"
        console.say(f"{each.name} {each.version} {each.build}: {state}, {console.size(each.size_bytes)}")
    console.answer(made.url)


@command.command()
@channel_argument
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE...")
@key_option
@json_option
def add(channel: Path, files: tuple[Path, ...], key_file: Path | None, as_json: bool) -> None:
    """Copy archives into a channel, and index it.

    What an archive holds is compared with what it states about itself first. An archive of the same name with another
    content is refused, since every cache knows an archive by its name. An archive that is damaged or contradicts itself
    is named and left out; the others are added, and the exit code is 3.
    """
    _change(lambda display: edit.add(channel, files, display, key_file), as_json=as_json)


@command.command()
@channel_argument
@click.option("--shards/--no-shards", default=None, help="Write shards as well (CEP 16).  [default: if there are some]")
@key_option
@json_option
def index(channel: Path, shards: bool | None, key_file: Path | None, as_json: bool) -> None:
    """Write the index of a channel anew.

    It is repodata.json, repodata.json.zst, and shards on request.
    """
    _change(lambda display: edit.reindex(channel, display, key_file, shards), as_json=as_json)


@command.command()
@channel_argument
@json_option
def check(channel: Path, as_json: bool) -> int:
    """Check every archive of a channel.

    Each is compared with the index and with its own list of files; exit code 1 when something does not fit.
    """
    archives = edit.archives(channel)
    with console.ProgressDisplay() as display, display.task(f"check {len(archives)} archives", len(archives)) as task:
        issues = edit.check(channel, archives, task)
    if as_json:
        found = [{"place": each.place, "message": each.message} for each in issues]
        console.answer_json({"archives": len(archives), "issues": found})
    else:
        for each in issues:
            console.answer(str(each))
        console.say(f"{len(archives)} archives, {len(issues)} issues")
    return 1 if issues else 0


@command.command()
@channel_argument
@click.argument("patterns", nargs=-1, required=True, metavar="FILE...")
@key_option
@json_option
def remove(channel: Path, patterns: tuple[str, ...], key_file: Path | None, as_json: bool) -> None:
    """Remove archives from a channel, by file name.

    In FILE, * and ? stand for other characters.

    \b
    Example:
      envtool channel remove /srv/channel 'ourtool-1.0-*.conda'
    """
    _change(lambda display: edit.remove(channel, patterns, display, key_file), as_json=as_json)


@command.command()
@channel_argument
@click.option("--keep", type=click.IntRange(min=1), required=True, metavar="N", help="How many builds stay.")
@key_option
@json_option
def gc(channel: Path, keep: int, key_file: Path | None, as_json: bool) -> None:
    """Keep the N newest builds of every package in each subdir.

    The others are removed. Locks that name one of them can no longer be created from this channel.
    """
    _change(lambda display: edit.collect(channel, keep, display, key_file), as_json=as_json)


@command.command()
@click.argument("place", metavar="DIR|s3://BUCKET/PREFIX")
@click.option("--lock", "lockfile_path", type=PATH, default=Path("conda-lock.yml"),
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
    storage = S3Storage(place) if place.startswith("s3://") else DirectoryStorage(Path(place))
    with console.ProgressDisplay() as display:
        made = mirror_module.mirror(lockfile, storage, Cache(paths.cache()), display, key_file=key_file)
    mirrors = made.mirrors
    if public_url:
        mirrors = {each: f"{public_url.rstrip('/')}/{url[len(made.url) :]}" for each, url in mirrors.items()}
    if as_json:
        console.answer_json({**made._asdict(), "mirrors": mirrors})
        return
    console.say(f"{made.url}: {made.files} archives and wheels, {len(made.moved)} moved, {len(made.removed)} removed")
    pairs = " ".join(f"{canonical}={url}" for canonical, url in mirrors.items())
    console.answer(f"ENVTOOL_MIRRORS='{pairs}'")


@command.command()
@channel_argument
@click.option("--bind", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS:PORT", help="Where to listen.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at once in each.")
@click.option("--token-file", type=_file, metavar="FILE",
              help="A file with the token that each request has to bring.  [default: ENVTOOL_CHANNEL_TOKEN, or none]",
)  # fmt: skip
def serve(channel: Path, bind: str, workers: int, threads: int, token_file: Path | None) -> None:
    """Serve a channel over HTTP, read-only.

    It runs until Ctrl-C, and needs the extra [web]. Clients bring the token as `Authorization: Bearer`, as the password
    of Basic, or in the path as http://HOST/t/TOKEN/ . It is never on the command line, which everybody on the machine
    can read.
    """
    try:
        from envtool.channel import server
    except ImportError as error:
        raise EnvtoolError(f"a channel cannot be served: {error}", "install envserve with its extra [web]") from error
    token = os.environ.get("ENVTOOL_CHANNEL_TOKEN", "")
    if token_file:
        token = read_text(token_file, "write the token into it").strip()
        if not token:
            raise click.UsageError(f"{token_file} is empty")
    server.serve(channel.absolute(), bind, workers, threads, token or None)


def _change(change: Callable[[console.ProgressDisplay], edit.Changed], *, as_json: bool) -> None:
    with console.ProgressDisplay() as display:
        changed = change(display)
    if as_json:
        console.answer_json(asdict(changed))
    else:
        for what, names in (("added", changed.added), ("removed", changed.removed)):
            for name in names:
                console.say(f"{what} {name}")
        console.say(f"{changed.kept} archives are in the channel")
    changed.require_all()
