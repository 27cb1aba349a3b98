"""What every command that solves begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envtool.locking.lock import LockRequest
    from envtool.locking.solution import Sources


@contextmanager
def opened(request: LockRequest) -> Iterator[Sources]:
    """Where packages come from, with the display on which the progress is shown."""
    from envtool import directories, report
    from envtool.fetching.cache import Cache
    from envtool.locking.conda import Repodata
    from envtool.locking.solution import Sources
    from envtool.locking.solve import repodata_urls
    from envtool.mirroring import choice as mirror_choice

    with report.Display() as display:
        known = mirror_choice.for_urls(repodata_urls(request.spec), Cache(directories.cache()), display)
        yield Sources(Repodata(directories.repodata_cache(), known), known, display)
