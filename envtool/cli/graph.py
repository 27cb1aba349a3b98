"""`envtool tree` and `why`: what needs what in a lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from envtool import console
from envtool.cli import options
from envtool.inspect_lock.graph import Graph, Key, graph
from envtool.inspect_lock.package_metadata import PackageMetadata, look_up
from envtool.lockfile.conda_lock_v1 import read_lockfile


@click.command("tree")
@click.argument("package", required=False)
@options.file_option
@options.platform_option
@options.category_option
@click.option("--depth", type=click.IntRange(0), help="How many levels to show.  [default: all]")
@click.option("--reverse", is_flag=True, help="Show what needs PACKAGE instead of what it needs.")
@click.option("--no-sizes", is_flag=True, help="Leave sizes out, which is quicker.")
@options.json_option
@click.pass_context
def tree(
    ctx: click.Context, package: str | None, lockfile_path: Path, platform: str | None, categories: tuple[str, ...],
    depth: int | None, reverse: bool, no_sizes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what each package of a lock needs, from the lines of environment.yml down, or from PACKAGE down.

    Sizes are those of the archives, where this machine knows them. `(*)` marks what is shown in full above.
    """
    if reverse and package is None:
        raise click.UsageError("--reverse needs a PACKAGE")
    lockfile = read_lockfile(lockfile_path)
    chosen = options.chosen_platform(lockfile, platform)
    whole = graph(lockfile, chosen, options.chosen_categories(lockfile, categories))
    key = whole.find(package) if package else None
    if package and key is None:
        console.say(f"{package} is not in the lock for {chosen}")
        ctx.exit(1)
    shown = whole.reversed if reverse else whole
    known = {} if no_sizes else look_up(list(whole.packages.values()), is_offline=True)
    roots = [key] if key else sorted(whole.requested, key=lambda each: each[1])
    if as_json:
        entries = [
            {
                "name": each.name, "version": each.version, "manager": each.manager, "url": each.url,
                "needs": [name for _, name in shown.edges[one]], "requested": whole.requested.get(one),
                "size_bytes": known[each.url].size_bytes if each.url in known else None,
            }
            for one, each in shown.packages.items()
        ]  # fmt: skip
        console.answer_json({"platform": chosen, "roots": [name for _, name in roots], "packages": entries})
        return
    # What a package needs is shown where it comes first, and `(*)` stands for it later.
    above: set[Key] = set()
    for root in roots:
        console.answer(_describe(shown, root, known))
        for line in _below(shown, root, known, depth, "", above):
            console.answer(line)
    sizes = [each.size_bytes for each in known.values() if each.size_bytes]
    total = f", {console.size(sum(sizes))} in the {len(sizes)} whose size is known" if sizes else ""
    console.say(f"{len(whole.packages)} packages for {chosen}{total}")


def _below(
    graph: Graph, key: Key, facts: Mapping[str, PackageMetadata], depth: int | None, indent: str, shown: set[Key]
) -> Iterator[str]:
    if depth == 0 or key in shown:
        return
    shown.add(key)
    edges = list(graph.edges[key])
    for needed in edges:
        branch, below = ("└─ ", "   ") if needed == edges[-1] else ("├─ ", "│  ")
        is_repeat = needed in shown and bool(graph.edges[needed])
        yield f"{indent}{branch}{_describe(graph, needed, facts)}{' (*)' if is_repeat else ''}"
        yield from _below(graph, needed, facts, None if depth is None else depth - 1, indent + below, shown)


def _describe(graph: Graph, key: Key, facts: Mapping[str, PackageMetadata]) -> str:
    """One package: name, version, size where it is known, and whether it is a wheel."""
    package = graph.packages[key]
    size_bytes = facts.get(package.url, PackageMetadata()).size_bytes
    notes = [
        note for note in ("pip" if key[0] == "pip" else "", console.size(size_bytes) if size_bytes else "") if note
    ]
    return f"{package.name} {package.version}" + (f" ({', '.join(notes)})" if notes else "")


@click.command("why")
@click.argument("package")
@options.file_option
@options.platform_option
@options.category_option
@options.json_option
@click.pass_context
def why(
    ctx: click.Context, package: str, lockfile_path: Path, platform: str | None, categories: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Say why PACKAGE is in a lock: from each line of environment.yml that leads to it, the shortest way.

    Exit code 1 when it is not in the lock.
    """
    lockfile = read_lockfile(lockfile_path)
    chosen = options.chosen_platform(lockfile, platform)
    whole = graph(lockfile, chosen, options.chosen_categories(lockfile, categories))
    key = whole.find(package)
    if key is None:
        console.say(f"{package} is not in the lock for {chosen}")
        ctx.exit(1)
    chains = whole.chains(key)
    locked = whole.packages[key]
    if as_json:
        found = [[name for _, name in chain] for chain in chains]
        console.answer_json(
            {"name": locked.name, "version": locked.version, "requested": whole.requested.get(key), "chains": found}
        )
        return
    for chain in chains:
        steps = [f"{whole.requested[chain[0]]} (asked for)"]
        for needing, needed in zip(chain, chain[1:]):
            steps.append(f"{needed[1]} {whole.edges[needing][needed]}".rstrip())
        console.answer(" → ".join(steps))
    console.say(f"{locked.name} {locked.version} is in the lock for {chosen} because of {len(chains)} of the lines")
