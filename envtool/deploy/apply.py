"""Bring a service to a lock: make the release, try it out, hand over to it, return to the last one when it fails."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from envtool import policy
from envtool.atomic_files import write_atomically
from envtool.console import ProgressDisplay, say
from envtool.deploy import gunicorn_handover, gunicorn_masters, release_directory
from envtool.deploy.release_directory import Release, ReleaseDirectory, lock_id
from envtool.errors import DeployError
from envtool.install.create import create
from envtool.prefix.activate import activation_script
from envtool.prefix.prefix import Prefix, State, remove
from envtool.templates import find_kind, render

if TYPE_CHECKING:
    from envtool.fetch.archive_cache import Cache
    from envtool.install.request import Request


class ApplyOptions(NamedTuple):
    """How a release is to be put in place."""

    app: str = "serve.wsgi:app"
    app_dir: Path | None = None  # code and settings; None means `app` of the service, unless that is empty
    health: str = "/readyz"
    limit_s: float = 120.0
    keep: int = 3


class Outcome(NamedTuple):
    """What was done."""

    release: Release
    previous: str | None
    is_changed: bool
    is_serving: bool


def apply(
    root: ReleaseDirectory, request: Request, wishes: ApplyOptions, cache: Cache, display: ProgressDisplay
) -> Outcome:
    """Bring a service to a lock. Raises DeployError if the release is not healthy; what served before serves."""
    with root.locked():
        gunicorn_handover.settle(root)
        # Write the start script and the settings of gunicorn, once: from then on they are the user's.
        for name, path in (("gunicorn", root.start), ("gunicorn-conf", root.path / "gunicorn.conf.py")):
            if path.exists():
                continue
            template, values = find_kind(name), {"root": str(root.path), "app": wishes.app}
            write_atomically(path, render(template, {each.name: values[each.name] for each in template.variables}))
            if path == root.start:
                path.chmod(0o755)
        release = _make(root, request, release_directory.take(root, wishes.app_dir), cache, display)
        outcome = _put_in_place(root, release, wishes, display)
        if outcome.is_changed or release.digest not in root.order():
            root.note_applied(release.digest, outcome.previous)
        _clean(root, wishes.keep)
        return outcome


def roll_back(root: ReleaseDirectory, digest: str | None, wishes: ApplyOptions, display: ProgressDisplay) -> Outcome:
    """Bring a service back to a release that it had. Raises DeployError if there is none, or it is not healthy."""
    with root.locked():
        gunicorn_handover.settle(root)
        releases, current = root.releases(), root.current()
        known = [release for release in releases if release in root.order()]
        if digest is not None:
            found = [each for each in known if each.startswith(digest)]
            if len(found) != 1:
                what = "several releases begin" if found else "no release begins"
                raise DeployError(f"{what} with {digest}", f"releases: {', '.join(known) or 'none'}")
        else:
            position = known.index(current) if current in known else 0
            found = known[position - 1 : position]
            if position == 0:
                raise DeployError("there is no release before the current one", "envtool deploy status shows them")
        return _put_in_place(root, releases[found[0]], wishes, display)


def _make(
    root: ReleaseDirectory, request: Request, app_digest: str | None, cache: Cache, display: ProgressDisplay
) -> Release:
    packages = request.packages
    env_digest, name = _environment(root, request, lock_id(request.platform, packages), cache, display)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    release = Release(env_digest, app_digest, name, len(packages), made)
    known = root.releases().get(release.digest)
    if known is not None and known.lock_id == release.lock_id:
        return known
    root.add(release, activation_script(root.environments / release.lock_id, "bash"))
    return release


def _environment(
    root: ReleaseDirectory, request: Request, name: str, cache: Cache, display: ProgressDisplay
) -> tuple[str, str]:
    """The env digest and the lock ID of the environment, made unless it is being served."""
    needed = {root.current(), *(master.release for master in gunicorn_masters.masters(root.run))}
    # What is being served is not touched.
    served = [each for digest, each in root.releases().items() if digest in needed]
    known = next((each for each in served if each.lock_id == name), None)
    if known is None:
        wanted = replace(request, repairs=True, is_listed=False)
        made = str(create(wanted, Prefix(root.environments / name), cache, display).receipt.env_digest)
        policy.require(replace(wanted, is_vouched=True), None, made)  # what was not known before
        # Another lock with the same files may be served, as of archives that were packed anew.
        known = next((each for each in served if each.env_digest == made), None)
        if known is None:
            return made, name
    return known.env_digest, known.lock_id


def _put_in_place(root: ReleaseDirectory, release: Release, wishes: ApplyOptions, display: ProgressDisplay) -> Outcome:
    previous, digest = root.current(), release.digest
    running = gunicorn_masters.masters(root.run)
    if previous == digest and all(each.release == digest for each in running):
        return Outcome(release, previous, is_changed=False, is_serving=bool(running))
    serving = running[-1] if running else None
    with display.task(f"try release {digest[:12]} out"):
        gunicorn_handover.try_out(root, digest, serving, wishes.limit_s, wishes.health)
    if serving is None:
        root.set_current(digest)
        return Outcome(release, previous, is_changed=True, is_serving=False)
    with display.task(f"hand over to release {digest[:12]}"):
        _hand_over(root, serving, digest, wishes)
    return Outcome(release, previous, is_changed=True, is_serving=True)


def _hand_over(root: ReleaseDirectory, serving: gunicorn_masters.Master, digest: str, wishes: ApplyOptions) -> None:
    gunicorn_handover.hand_over(root, serving, digest, wishes.limit_s)
    trouble = gunicorn_handover.check(root, wishes.health)
    if trouble is None:
        return
    say(f"release {digest} serves, but failed its health check: {trouble}; returning to {serving.release}")
    newcomer = gunicorn_masters.masters(root.run)
    if newcomer:
        gunicorn_handover.hand_over(root, newcomer[-1], serving.release, wishes.limit_s)
    else:
        root.set_current(serving.release)
    message = f"release {digest} passed its health check when it was tried out and failed it when it served: {trouble}"
    raise DeployError(message, f"release {serving.release} is current again; see the log of the service")


def _clean(root: ReleaseDirectory, keep: int) -> None:
    known = root.releases()
    needed = {root.current(), *(master.release for master in gunicorn_masters.masters(root.run)), *list(known)[-keep:]}
    for digest in known.keys() - needed:
        root.forget(digest)
    release_directory.clean(root)
    used = {release.lock_id for release in root.releases().values()}
    for directory in root.environments.iterdir():
        if directory.name in used:
            continue
        # Also what a create that was killed left behind; what is not ours stays.
        prefix = Prefix(directory)
        if prefix.state() in (State.WHOLE, State.INCOMPLETE):
            remove(prefix)
        elif prefix.state() is State.EMPTY:
            shutil.rmtree(directory)
