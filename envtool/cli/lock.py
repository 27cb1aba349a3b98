"""`envtool lock`."""

from __future__ import annotations

from pathlib import Path

import click

from envtool.cli.options import json_option


@click.command("lock", short_help="Choose every package and write conda-lock.yml.")
@click.option(
    "-f", "--file", "source", type=click.Path(path_type=Path), default=Path("environment.yml"), show_default=True,
    help="The environment specification.",
)  # fmt: skip
@click.option(
    "-o",
    "--lockfile",
    "lockfile_path",
    type=click.Path(path_type=Path),
    help="Where to write. [default: conda-lock.yml beside FILE]",
)
@click.option(
    "-p", "--platform", "platforms", multiple=True, help="Lock for this platform instead of those in FILE. Repeatable."
)
@json_option
def command(source: Path, lockfile_path: Path | None, platforms: tuple[str, ...], as_json: bool) -> None:
    """Choose every package of every platform and write conda-lock.yml.

    Conda packages are chosen by conda's own rules, the wheels of the `pip:` section by uv. Every one is written down
    with its URL and sha256. The machine that locks does not matter: what the target machines have (glibc, CUDA) stands
    under `virtual-packages` in FILE.
    """
    from envtool import directories, report
    from envtool.lock import lock
    from envtool.lockfile import write_lockfile
    from envtool.spec import read_spec

    spec = read_spec(source, platforms)
    target = lockfile_path or source.parent / "conda-lock.yml"
    with report.Display() as display, display.task(f"solve {source}"):
        lockfile = lock(spec, target, directories.repodata_cache())
        write_lockfile(target, lockfile)
    counts = {each: len([p for p in lockfile.packages if p.platform == each]) for each in lockfile.platforms}
    if as_json:
        report.answer_json({"lockfile": str(target), "packages": counts, "content_hash": dict(lockfile.content_hash)})
    else:
        for platform, count in counts.items():
            report.say(f"locked {count} packages for {platform} in {target}")
