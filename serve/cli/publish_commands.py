"""The commands of the trainer's side: `publish` and `keygen`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serve.publishing.publish import Extras, publish

_PUBLISH = """\
Copy FILE into DIR, sync it, rename it into place, and write its marker last.

A server that watches DIR loads it, proves it by the sha256 in the marker, and swaps it in without a failed request.
What torch.save wrote becomes safetensors on the way, where torch is installed and can read it without running its code.
Wrappers' prefixes (module., _orig_mod.) and the key of a bundle are taken off; where it is not clear which, say so.
A sharded checkpoint is published by its index, FILE.safetensors.index.json.

  python -m serve publish weights.safetensors --to checkpoints --name model_v2.safetensors --version 2
  python -m serve publish last.ckpt --to checkpoints --key state_dict --strip-prefix model.
  python -m serve publish weights.safetensors --to s3://bucket/models
  python -m serve publish weights.pth --to checkpoints --metric accuracy=0.93 --golden golden.json --sign trainer.key
"""
_KEYGEN = """\
Make a pair of Ed25519 keys: FILE for the trainer, FILE.pub for the servers.

  python -m serve keygen trainer.key
  python -m serve publish weights.safetensors --to checkpoints --sign trainer.key
  SERVE_VERIFY_KEY=trainer.key.pub gunicorn -c python:serve.gunicorn_conf serve.wsgi:app
"""


def add_publish_commands(commands: Any) -> None:
    """Add the commands to the command line.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    raw = argparse.RawDescriptionHelpFormatter
    _add_publish(commands.add_parser("publish", formatter_class=raw, help="publish a checkpoint, its marker last"))
    keygen = commands.add_parser("keygen", formatter_class=raw, help="make a pair of keys to sign checkpoints with")
    keygen.description = _KEYGEN
    keygen.add_argument("file", metavar="FILE", type=Path, help="gets the private key; must not exist")
    keygen.add_argument("--json", action="store_true", help="print what was made as JSON")
    keygen.set_defaults(run=_keygen)


def _add_publish(parser: argparse.ArgumentParser) -> None:
    parser.description = _PUBLISH
    parser.add_argument("file", metavar="FILE", type=Path, help="a state dict: safetensors, or what torch.save wrote")
    parser.add_argument("--to", metavar="DIR", required=True, help="the watched directory, or its URL (s3://…)")
    parser.add_argument("--name", help="file name of the checkpoint in DIR (default: that of FILE)")
    parser.add_argument("--version", help="name of this content in answers and logs (default: start of its sha256)")
    parser.add_argument("--generation", type=int, default=0, help="a rising number of yours that outranks the clock")
    parser.add_argument(
        "--convert",
        action=argparse.BooleanOptionalAction,
        help="write safetensors instead of what torch.save wrote; said explicitly, FILE may run its code",
    )
    parser.add_argument(
        "--key", metavar="KEY", help="where the weights lie in FILE, for example model or ema.state_dict"
    )
    parser.add_argument(
        "--strip-prefix", metavar="PREFIX", help="take PREFIX off the tensors' names, and leave out those without it"
    )
    parser.add_argument(
        "--golden", metavar="FILE", type=Path, help="JSON list of requests; absent answers are computed"
    )
    parser.add_argument(
        "--model", metavar="NAME[@LABEL]", help="which one computes them, where the settings have several"
    )
    parser.add_argument("--metric", metavar="NAME=VALUE", type=_metric, action="append", default=[], dest="metrics")
    parser.add_argument("--sign", metavar="KEYFILE", type=Path, help="private key that keygen made")
    parser.add_argument("--json", action="store_true", help="print what was published as JSON")
    parser.set_defaults(run=_publish)


def _metric(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        equals = ""
        number = 0.0
    if not name or not equals or number - number != 0:
        raise argparse.ArgumentTypeError(f"expected name=number, found {text!r}")
    return name, number


def _publish(options: argparse.Namespace) -> str:
    extras = Extras(
        metrics=dict(options.metrics),
        golden=options.golden,
        model=options.model,
        key=options.sign,
        convert=options.convert,
        generation=options.generation,
        weights_key=options.key,
        strip_prefix=options.strip_prefix,
    )
    published = publish(options.file, options.to, options.name, options.version, extras)
    if options.json:
        return json.dumps(asdict(published))
    lines = [f"published {published.checkpoint}", f"  version {published.version}", f"  sha256  {published.sha256}"]
    lines += [f"  {note}" for note in published.notes]
    if published.generation != options.generation:
        lines.append(f"  generation {published.generation}, as a checkpoint beside it states one")
    if published.outranked_by is not None:
        lines.append(f"  it will not come live: {published.outranked_by} beside it states a higher generation")
        lines.append("  hint: give a higher --generation, or none")
    return "\n".join(lines)


def _keygen(options: argparse.Namespace) -> str:
    from serve.checkpoint.signature import write_keys

    public_file, key = write_keys(options.file)
    if options.json:
        return json.dumps({"private": str(options.file), "public": str(public_file), "key": key})
    return f"private key {options.file}\n  public key {public_file}\n  name       {key}"
