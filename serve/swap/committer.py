"""The seam between admission and the move of the workers to what was admitted.

When and with whom a worker swaps is `serve.swap.host_committer` (all workers of a host at once) or
`serve.swap.worker_committer` (each worker for itself).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from serve.checkpoint.stored import Stored
    from serve.source.observation import Ignore, Wait
    from serve.store.ledger import Entry
    from serve.store.operator_requests import Rollback
    from serve.swap.context import Loader


class Committer(Protocol):
    """Makes what was admitted live in one worker."""

    @property
    def turn(self) -> int:
        """A number that changes when there is something to attend to."""

    def boot(self, loader: Loader) -> None:
        """Make the committed generation live in a worker that starts."""

    def come_back(self, loader: Loader) -> None:
        """Make the committed generation live again in a worker that was unloaded."""

    def attend(self, loader: Loader) -> bool:
        """Take part in what other workers have begun, or make live what is committed; return whether there was any."""

    def move(self, loader: Loader, stored: Stored, proposed: Entry) -> Ignore | Wait:
        """Make an admitted checkpoint live, unless what is live has the same content.

        Raises:
            LedgerError: the generations cannot be numbered.
            OSError: the store cannot be written.
        """

    def is_done(self, order: Rollback) -> bool:
        """Say whether a rollback was carried out.

        Raises:
            LedgerError: the file of generations is damaged.
            OSError: it cannot be read.
        """

    def report(self) -> None:
        """State in the host's table what this worker answers with."""

    def kept(self) -> frozenset[str]:
        """Return the sha256 of what must stay in the store, even where the disk is full.

        Raises:
            LedgerError: the file of generations is damaged.
            OSError: it cannot be read.
        """

    def leave(self) -> None:
        """Take part no more; the worker ends."""
