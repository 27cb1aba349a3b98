"""Small wrong changes of the modules that prove something, and how many of them the unit tests notice.

    .venv/bin/python bench/mutants.py --count 40 --seed 1

Each mutant is one change of one module: a comparison turned, a constant moved, a condition dropped or a returned value
emptied. The unit tests that import the module run on a copy of the checkout until the first one fails. The exit status
is 1 where fewer than 85 % are noticed or are listed, with the reason, in `docs/adr/0030-tests-that-notice.md`.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each module with the test files that prove it, below tests/, where `serve/` stands for `serve/unit/`.
MODULES = {
    "serve/checkpoint/formats.py": "serve/test_formats serve/test_headers serve/test_sharded serve/test_reasons",
    "serve/model/batch_independence.py": "serve/test_company serve/test_absent_outputs serve/test_numbers",
    "serve/model/loader.py": "serve/test_gates serve/test_model_gates",
    "serve/swap/host_committer.py": "serve/test_host_committer serve/test_agreement serve/test_refusals",
    "serve/swap/worker_committer.py": "serve/test_probation_of_a_worker serve/test_refusals",
    "serve/swap/shared_state.py": "serve/test_agreement serve/test_trials serve/test_rollouts serve/test_page",
    "serve/store/ledger.py": "serve/test_ledger serve/test_admin serve/test_agreement",
    "serve/store/checkpoint_store.py": "serve/test_store serve/test_ledger serve/test_refusals",
    "envtool/solve/lock.py": "unit/lock/test_update property/lock/test_fewest_moves",
    "envtool/solve/content_hash.py": "unit/lock/test_choices interop/lock/test_content_hash",
    "envtool/artifacts/relocation.py": "unit/prefix/test_relocation property/prefix/test_restore",
    "envtool/verify.py": "functional/prefix/test_verify",
    "envtool/artifacts/conda_archive.py": "unit/prefix/test_read_ahead unit/channel/test_archive property/test_fuzz",
    "envtool/fetch/credentials.py": "unit/fetch/test_authorization",
}
COPIED = ("envtool", "serve", "tests", "templates", "channel", "examples", "docs", "pyproject.toml", "README.md")
LISTED = ROOT / "docs/adr/0030-tests-that-notice.md"
WANTED = 0.85
TIMEOUT_S = 900
_TURNED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be changed into, each of another meaning."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _TURNED:
        yield ast.Compare(node.left, [_TURNED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Return) and node.value is not None and not _is_empty(node.value):
        yield ast.Return(ast.Constant(None))


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


@dataclass(frozen=True)
class Mutant:
    """One change.

    Args:
        module: its path in the checkout.
        line: where, counted from 1.
        before: what is there.
        after: what comes in its place.
        text: the whole module with the change.
    """

    module: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before}  ->  {self.after}"


class _Change(ast.NodeTransformer):
    """Makes the change of a number, and remembers it; annotations and decorators stay."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.count, self.made = wanted, 0, None

    def visit(self, node: ast.AST) -> ast.AST:
        if getattr(node, "decorator_list", None):
            decorators, node.decorator_list = node.decorator_list, []
            node = self.visit(node)
            node.decorator_list = decorators
            return node
        for after in changes(node):
            self.count += 1
            if self.count == self.wanted:
                self.made = (node.lineno, ast.unparse(node), ast.unparse(after))
                return after
        return super().visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node


def mutants(module: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    text = (ROOT / module).read_text()
    for number in itertools.count(1):
        change = _Change(number)
        tree = ast.fix_missing_locations(change.visit(ast.parse(text)))
        if change.made is None:
            return
        line, before, after = (str(part) for part in change.made)
        yield Mutant(module, int(line), before, after, ast.unparse(tree))


def tests_of(module: str) -> list[str]:
    """The test files that prove a module, the nearest first."""
    places = {"serve": "serve/unit"}
    words = (word.partition("/") for word in MODULES[module].split())
    return [f"tests/{places.get(place, place)}/{name}.py" for place, _, name in words]


def is_noticed(mutant: Mutant, place: Path) -> bool:
    """Whether a test fails, or does not end, on a copy of the checkout with a mutant."""
    path = place / mutant.module
    whole = path.read_text()
    path.write_text(mutant.text)
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests_of(mutant.module)]
    environ = {**os.environ, "PYTHONPATH": str(place)}
    try:
        done = subprocess.run(argv, cwd=place, env=environ, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(whole)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Draw mutants, try each, and list the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=40, help="of mutants, drawn from all modules alike (default: 40)")
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400, help="of the drawing (default: the day)")
    parser.add_argument("modules", nargs="*", default=[*MODULES], help="paths (default: those that prove something)")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    all_of = {module: list(mutants(module)) for module in options.modules}
    chosen = [draw.choice(all_of[module]) for module, _ in zip(itertools.cycle(options.modules), range(options.count))]
    listed = LISTED.read_text()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        place = Path(scratch)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
        for mutant in chosen:
            noticed = is_noticed(mutant, place)
            print(f"{'noticed ' if noticed else 'SURVIVED'} {mutant}", flush=True)
            if not noticed and f"{mutant.module}`: `{mutant.before}` to `{mutant.after}`" not in listed:
                survivors.append(mutant)
    share = 1 - len(survivors) / len(chosen)
    print(f"{share:.0%} of {len(chosen)} mutants noticed or explained (seed {options.seed})")
    sys.exit(share < WANTED)


if __name__ == "__main__":
    main()
