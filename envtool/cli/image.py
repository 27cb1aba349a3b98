"""`envtool image`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from envtool import console, paths, policy
from envtool.cli import options
from envtool.errors import EnvtoolError
from envtool.fetch.archive_cache import Cache, sha256_of
from envtool.image.image import Wanted, make
from envtool.install.request import Request
from envtool.solve.md5_completion import read_complete


@click.command("image")
@options.file_option
@click.option("-o", "--output", required=True, type=options.PATH,
              help="Where to: a directory, or one file if it ends in .tar.")  # fmt: skip
@options.machine_platform_option
@options.installed_category_option
@click.option("--base", metavar="PATH[@DIGEST]", help="An OCI layout to build upon.  [default: nothing]")
@click.option("--app", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="The directory with serve.toml and the model's module; the image then serves it.")  # fmt: skip
@click.option("--tag", default="latest", show_default=True, help="The image's name in the layout.")
@click.option("--offline", is_flag=True, help="Use only the cache.")
@options.json_option
def command(
    lockfile_path: Path, output: Path, platform: str | None, categories: tuple[str, ...], base: str | None,
    app: Path | None, tag: str, offline: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make an OCI image straight from a lock; it needs no daemon, no root access and no Dockerfile.

    The environment is in /opt/env, a layer for each conda package and one for the wheels, so that a changed package
    changes one layer. The same lock gives the same digest on every machine and day. The image is written as an OCI
    layout; a second run into the same directory compresses only what changed, and a run on a machine of another
    platform adds that platform.

    \b
    Examples:
      envtool image -o image
      envtool image -o image --app app --base debian@sha256:…
      skopeo copy oci:image:latest docker://registry.example.org/team/model:1
      podman run oci:image:latest
    """
    lockfile = read_complete(lockfile_path, is_offline=offline)
    request = Request(
        lockfile, platform or options.this_platform(), categories, "envtool image", is_offline=offline, is_listed=False,
        is_for_elsewhere=True, is_frozen=True,
    )  # fmt: skip
    policy.require(request, lockfile_path)
    if app and not any(each.name == "gunicorn" for each in request.packages):
        raise EnvtoolError("the lock has no gunicorn, which --app runs", "add gunicorn and envserve[serve], lock again")
    layout, _, digest = (base or "").partition("@")
    wanted = Wanted(
        request, sha256_of(lockfile_path), lockfile_path.absolute().parent.name, tag,
        (Path(layout), digest or None) if base else None, app,
    )  # fmt: skip
    with console.ProgressDisplay() as display:
        made = make(wanted, output, Cache(paths.cache()), display)
    policy.require(request, lockfile_path, made.env_digest)
    if made.lacks_zlib:
        hint = "run envtool with a Python that has zlib, or lock one"
        console.warn("this Python has another library for zlib: on other machines layers get other digests", hint)
    if made.lacks_libc:
        hint = "build upon one: --base PATH, or lock a sysroot package"
        console.warn("the image has no C library: it can be copied from and mounted, but not run", hint)
    if as_json:
        console.answer_json({**asdict(made), "output": str(output)})
        return
    console.say(f"wrote {output}: {made.layers} layers, {console.size(made.size_bytes)}, {', '.join(made.platforms)}")
    console.say(f"env digest {made.env_digest}")
    console.answer(made.digest)
