"""The sources of every command that solves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from envtool import console, paths
from envtool.fetch.archive_cache import Cache
from envtool.mirrors import selection as mirror_choice
from envtool.solve.conda_solver import Repodata
from envtool.solve.lock import LockRequest, repodata_urls
from envtool.solve.solution import Sources


@contextmanager
def opened(request: LockRequest) -> Iterator[Sources]:
    """Where packages come from, with the display on which the progress is shown."""
    with console.ProgressDisplay() as display:
        known = mirror_choice.for_urls(repodata_urls(request.spec), Cache(paths.cache()), display)
        yield Sources(Repodata(paths.repodata_cache(), known), known, display)
