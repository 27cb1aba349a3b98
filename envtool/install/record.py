"""Notes of a prefix that was made: for conda, for the next create, and its packages for the package cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envtool.install.request import installed
from envtool.lockfile.conda_lock_v1 import SPECS_KEY, VARIABLES_KEY, read_json_metadata
from envtool.package_cache import capture
from envtool.prefix import conda_meta
from envtool.prefix.conda_meta import conda_packages
from envtool.prefix.environments import register
from envtool.prefix.prefix import Receipt

if TYPE_CHECKING:
    from envtool.install.create import Made
    from envtool.install.transaction import Transaction

ENV_DIGEST_VARIABLE = "ENVSERVE_ENV_DIGEST"


def complete(made: Made) -> Receipt:
    """Write the notes of a prefix, its receipt last, and keep what was unpacked."""
    transaction, inventory = made.transaction, made.inventory
    receipt = Receipt(
        platform=transaction.request.platform,
        categories=transaction.request.categories,
        packages=tuple(installed(package) for package in transaction.wanted),
        env_digest=inventory.env_digest,
        generated=inventory.generated(),
        link_scripts=transaction.request.link_scripts(),
    )
    _write_notes(transaction, receipt)
    if not transaction.request.is_from_archives:
        with transaction.display.task("keep what was unpacked"):
            content = capture.Made(
                transaction.prefix.path, inventory.declared, inventory.entries, made.since_ns, inventory.layout.shared
            )
            capture.remember(content, transaction.wanted, transaction.store)
    return receipt


def _write_notes(transaction: Transaction, receipt: Receipt) -> None:
    request, prefix = transaction.request, transaction.prefix
    variables = read_json_metadata(request.lockfile, VARIABLES_KEY) or {}
    conda_meta.set_variables(prefix.meta, {**variables, ENV_DIGEST_VARIABLE: receipt.env_digest})
    before = () if transaction.plan.starts_over else transaction.before
    after = [package.description for package in conda_packages(prefix.path)]
    conda_meta.write_history(prefix.meta, request.command, before, after, _requested(transaction))
    if request.is_frozen:
        conda_meta.freeze(prefix.meta)
    prefix.complete(receipt)
    if request.is_listed:
        register(prefix.path)


def _requested(transaction: Transaction) -> Sequence[str]:
    specs: dict[str, list[str]] = read_json_metadata(transaction.request.lockfile, SPECS_KEY) or {}
    if transaction.request.platform in specs:
        return specs[transaction.request.platform]
    # A lock of another tool does not say what was asked for: whatever nothing else needs was.
    packages = [package for package in transaction.wanted if package.manager == "conda"]
    needed = {name for package in packages for name in package.dependencies}
    return [f"{package.name}={package.version}" for package in packages if package.name not in needed]
