"""The commands of auditors: what an answer was made of, and statements and bills of materials about it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, TextIO

import click

from serve import durable_files
from serve.checkpoint.provenance import read_env_digest
from serve.cli.options import PATH, answer, on_a_store, settings_of
from serve.errors import OperationError, ServeError
from serve.operations import trace as chain
from serve.operations.operations import Operations
from serve.store.ledger import Entry


@click.command()
@on_a_store
@click.argument("head", metavar="ANSWER", type=click.File(errors="replace"))
@click.option("--request", metavar="ID", help="ANSWER is an access log: the trace or span id of the request.")
@click.option("--key", "keys", type=PATH, multiple=True, metavar="FILE", help="A public key you trust. Repeatable.")
@click.option("--statement", "statements", type=PATH, multiple=True, metavar="FILE",
              help="What attest wrote. Repeatable.")  # fmt: skip
@click.option("--lock", type=PATH, metavar="FILE", help="The conda-lock.yml of the environment.")
@click.option("--checkpoint", type=PATH, metavar="FILE", help="The checkpoint, where the store has it no more.")
@click.option("--bom", "bill", type=PATH, metavar="FILE", help="What bom wrote.")
def trace(
    root: Path | None, model: str | None, as_json: bool, head: TextIO, request: str | None,
    keys: tuple[Path, ...], statements: tuple[Path, ...], lock: Path | None, checkpoint: Path | None,
    bill: Path | None,
) -> int:  # fmt: skip
    """Follow an answer back to the bytes that made it, without a network.

    ANSWER is the head of an answer (`curl -D head …`), - for standard input, or an access log with --request. Each
    link is verified, failed, or unknown where nothing at hand can tell. Exit code 1 when one failed.

    \b
      python -m serve trace head --key trainer.key.pub --key team.pub \\
          --statement env.dsse.json --statement model.dsse.json --lock conda-lock.yml
    """
    if root is None:
        try:
            root = settings_of(model).store
        except ServeError:
            root = None  # years later there may be no settings
    evidence = chain.Evidence(root, keys, statements, lock, checkpoint, bill)
    links = chain.trace(chain.read_answer(head.read(), request), evidence)
    text = "\n".join(f"{link.name:12} {link.verdict:9} {link.detail}" for link in links)
    answer(as_json, [asdict(link) for link in links], text)
    return int(any(link.verdict == chain.FAILED for link in links))


@click.command()
@on_a_store
@click.option("--key", "key", type=PATH, metavar="FILE", required=True, help="Your private key: Ed25519 or ECDSA.")
@click.option("--generation", type=int, help="Which one; the live one by default.")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Where to; standard output by default.")
def attest(
    root: Path | None, model: str | None, as_json: bool, key: Path, generation: int | None, output: Path | None
) -> None:
    """Write a signed statement that a checkpoint passed the gates and was committed.

    An in-toto statement in a DSSE envelope about the checkpoint's sha256. Run it in the environment that serves.

    \b
      python -m serve attest --key ops.pem -o model.dsse.json
    """
    entry = _find(root, model, generation)
    text = json.dumps(chain.attest(entry, read_env_digest(os.environ, Path(sys.prefix)), key)) + "\n"
    _write(text, output)


@click.command()
@on_a_store
@click.option("--environment", type=click.File("rb"), metavar="FILE",
              help="What envtool export cyclonedx wrote; it is joined.")  # fmt: skip
@click.option("--generation", type=int, help="Which one; the live one by default.")
@click.option("--spec", type=click.Choice(["1.7", "1.6"]), default="1.7", show_default=True,
              help="The version of CycloneDX.")  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Where to; standard output by default.")
def bom(
    root: Path | None, model: str | None, as_json: bool, environment: BinaryIO | None, generation: int | None,
    spec: str, output: Path | None,
) -> None:  # fmt: skip
    """Write a CycloneDX bill of materials of the model that is served, and of its environment.

    \b
      envtool export cyclonedx --offline -o env.cdx.json
      python -m serve bom --environment env.cdx.json -o service.cdx.json
    """
    content = environment.read() if environment else None
    entry, digest = _find(root, model, generation), read_env_digest(os.environ, Path(sys.prefix))
    _write(chain.bill_of_materials(entry, digest, content, spec), output)


def _find(root: Path | None, model: str | None, generation: int | None) -> Entry:
    entries = Operations(root or settings_of(model).store).ledger.read()
    found = [entry for entry in entries if generation in (None, entry.generation)]
    if not found:
        raise OperationError(f"generation {generation or 1}: expected in the ledger, found none", hint="serve history")
    return found[-1]


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        durable_files.replace_file(output, text.encode())
