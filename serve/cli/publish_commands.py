"""The commands of the trainer's side: `publish`, `keygen`, and `golden` and `replay` over recorded requests."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from serve.cli.options import PATH, answer, json_option, model_option, settings_of
from serve.publishing.publish import Extras
from serve.publishing.publish import publish as publish_checkpoint


def _parse_metrics(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not name or not math.isfinite(found[name]):
            raise click.BadParameter(f"expected name=number, found {text!r}", context, option)
    return found


@click.command()
@click.argument("file", type=PATH)
@click.option("--to", "directory", metavar="DIR", required=True,
              help="The watched directory, its URL (s3://…), or mlflow:models:/NAME@ALIAS.")  # fmt: skip
@click.option("--name", help="File name of the checkpoint in DIR (default: that of FILE).")
@click.option("--version", help="Name of this content in answers and logs (default: start of its sha256).")
@click.option("--generation", type=int, default=0, help="A rising number of yours that outranks the clock.")
@click.option("--convert/--no-convert", default=None,
              help="Write safetensors instead of what torch.save wrote; if given, FILE may run code.")  # fmt: skip
@click.option("--key", "weights_key", metavar="KEY",
              help="Where the weights are in FILE, for example model or ema.state_dict.")  # fmt: skip
@click.option("--strip-prefix", metavar="PREFIX", help="Take PREFIX off tensors' names; leave out those without it.")
@click.option("--check", is_flag=True, help="First load it with the model class of serve.toml, as a server does.")
@click.option("--golden", type=PATH, metavar="FILE", help="JSON list of requests; absent answers are computed.")
@click.option("--golden-from", type=click.Choice(["recorded"]), help="Make them of requests that were recorded.")
@click.option("--model", metavar="NAME[@LABEL]", help="Which one that is, where the settings have several.")
@click.option("--metric", "metrics", metavar="NAME=VALUE", multiple=True, callback=_parse_metrics,
              help="Written to the marker.")  # fmt: skip
@click.option("--sign", "key", type=PATH, metavar="KEYFILE", help="Private key that keygen made.")
@click.option("--sign-openssf", "openssf_key", type=PATH, metavar="KEYFILE",
              help="Private ECDSA key, for model_signing.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was published as JSON.")
def publish(file: Path, directory: str, name: str | None, version: str | None, as_json: bool, **extras: Any) -> None:
    """Copy FILE into DIR, sync it, rename it into place, and write its marker last.

    FILE is a state dict: safetensors, or what torch.save wrote. A server that watches DIR loads it, proves it by the
    sha256 in the marker, and swaps it in without a failed request. What torch.save wrote becomes safetensors on the
    way, where torch is installed and can read it without running its code. Wrappers' prefixes (module., _orig_mod.)
    and the key of a bundle are taken off; where that is ambiguous, give --key or --strip-prefix. --check refuses what
    the model class would not take. A sharded checkpoint is published by its index, FILE.safetensors.index.json.

    \b
      python -m serve publish weights.safetensors --to checkpoints --name model_v2.safetensors --version 2
      python -m serve publish last.ckpt --to checkpoints --key state_dict --strip-prefix model.
      python -m serve publish weights.safetensors --to s3://bucket/models
      python -m serve publish weights.safetensors --to mlflow:models:/churn@champion
      python -m serve publish weights.pth --to checkpoints --metric accuracy=0.93 --sign trainer.key
    """
    published = publish_checkpoint(file, directory, name, version, Extras(**extras))
    lines = [f"published {published.checkpoint}", f"  version {published.version}", f"  sha256  {published.sha256}"]
    lines += [f"  {note}" for note in published.notes]
    if published.generation != extras["generation"]:
        lines.append(f"  generation {published.generation}, to outrank what is beside it")
    if published.outranked_by is not None:
        lines.append(f"  it will not come live: {published.outranked_by} beside it states a higher generation")
        lines.append("  hint: give a higher --generation, or none")
    answer(as_json, asdict(published), "\n".join(lines))


@click.command()
@click.argument("file", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def keygen(file: Path, as_json: bool) -> None:
    """Make a pair of Ed25519 keys: FILE, which must not exist, for the trainer, FILE.pub for the servers.

    \b
      python -m serve keygen trainer.key
      python -m serve publish weights.safetensors --to checkpoints --sign trainer.key
      SERVE_VERIFY_KEY=trainer.key.pub gunicorn -c python:serve.gunicorn_conf serve.wsgi:app
    """
    from serve.checkpoint.signature import write_keys

    public_file, key = write_keys(file)
    facts = {"private": str(file), "public": str(public_file), "key": key}
    answer(as_json, facts, f"private key {file}\n  public key {public_file}\n  name       {key}")


@click.command()
@click.option("--from", "file", type=PATH, metavar="FILE", help="What was recorded (default: in the server's store).")
@click.option("--count", type=click.IntRange(1), default=32, show_default=True, help="How many to choose.")
@click.option("--against", type=PATH, metavar="CHECKPOINT", help="Have this answer them, and measure the tolerances.")
@click.option("--output", "-o", type=PATH, metavar="FILE", help="Where to write them (default: to stdout).")
@model_option
def golden(file: Path | None, count: int, against: Path | None, output: Path | None, model: str | None) -> None:
    """Make golden requests of recorded ones, chosen so that their answers lie far apart.

    A server records with record_share in serve.toml. Without --against the answers are those that were recorded.

    \b
      python -m serve golden -o golden.json
      python -m serve golden --against weights.safetensors --count 8 -o golden.json
      python -m serve publish weights.safetensors --to checkpoints --golden golden.json
    """
    from serve.publishing import golden as recorded  # brings numpy

    settings = settings_of(model)
    chosen = recorded.choose(recorded.find_recorded(settings, file), count)
    predictor = None if against is None else recorded.load_own(settings, against).predictor
    text = json.dumps(recorded.make_golden(chosen, predictor), indent=1)
    if output is None:
        click.echo(text)
        return
    output.write_text(text + "\n")
    click.echo(f"{len(chosen)} golden requests in {output}; publish takes them by --golden {output}")


@click.command()
@click.argument("file", type=PATH, required=False)
@click.option("--against", type=PATH, metavar="CHECKPOINT", required=True, help="What is to answer.")
@click.option("--compare", type=click.Choice(["tolerance", "exact", "top1"]), default="tolerance", show_default=True,
              help="When two answers agree: closely, exactly, or by the place of the largest number.")  # fmt: skip
@click.option("--plot", type=PATH, metavar="FILE.svg", help="Draw recorded numbers against those of now.")
@model_option
@json_option
def replay(file: Path | None, against: Path, compare: str, plot: Path | None, model: str | None, as_json: bool) -> int:
    """Have a checkpoint answer recorded requests, without a server, and compare with the answers that were given.

    FILE is what was recorded, by default what the server of the settings keeps. Exit code 1: some differ or fail.

    \b
      python -m serve replay --against weights.safetensors
      python -m serve replay recorded.jsonl --against weights.safetensors --compare top1 --json
      python -m serve replay --against weights.safetensors --plot answers.svg
    """
    from serve.publishing import golden as recorded  # brings numpy

    settings = settings_of(model)
    predictor = recorded.load_own(settings, against).predictor
    found = recorded.replay(recorded.find_recorded(settings, file), predictor, compare)
    if plot is not None:
        plot.write_text(recorded.plot(found, against.name))
    most = max(found.spread.values()) or 1
    lines = [f"{found.agreed} of {found.requests} answers agree ({compare})"]
    lines += [
        f"  difference up to {bound:>5}  {count:>6}  {'#' * round(40 * count / most)}".rstrip()
        for bound, count in found.spread.items()
    ]
    lines += [f"  {line}" for line in found.shown]
    lines += [f"  request {place}: {reason}" for place, reason in found.failed.items()]
    answer(as_json, found.as_json(), "\n".join(lines))
    return 0 if found.agreed == found.requests else 1
