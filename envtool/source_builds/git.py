"""The door to git: which commit a revision is, and the files of a commit. git's own configuration (credential helpers,
proxies, `url.….insteadOf`) holds where the network is asked, and none of it where files are checked out, so that every
machine gets the same bytes. Out of scope: submodules and git-lfs."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from envtool import subprocesses
from envtool.errors import NetworkError, ProcessError, SolveError
from envtool.fetch import credentials
from envtool.fetch.credentials import without_secrets
from envtool.fetch.failover import configured_timeouts
from envtool.lockfile.model import Repository

_HINT = "is the URL right, is the repository reached from here, and does git have what it needs to log in?"
_PLAIN = ("core.autocrlf=false", "core.eol=lf", "core.fileMode=true", "core.symlinks=true", "advice.detachedHead=false")
_PLACES = ("_DIR", "_WORK_TREE", "_INDEX_FILE", "_DIRECTORY", "_NAMESPACE", "_PREFIX", "_PARAMETERS")


def resolve(repository: Repository) -> str:
    """The commit that a repository has for a revision now; as for pip, a branch comes before a tag. Raises SolveError
    if it has no such revision, NetworkError if it cannot be asked."""
    if repository.commit:
        return repository.commit
    name = repository.revision or "HEAD"
    answer = _ask(repository, "ls-remote", repository.shown, *_references(name))
    found = {reference: commit for commit, _, reference in (line.partition("\t") for line in answer.splitlines())}
    for reference in _references(name):
        if reference in found:
            return found[reference]
    hint = "write a branch, a tag, or all 40 digits of a commit after the @"
    raise SolveError(f"{repository.shown} has no branch and no tag {name!r}", hint)


def check_out(repository: Repository, commit: str, directory: Path) -> None:
    """Put the files of one commit into a new directory, with a repository around them that holds nothing else. Raises
    NetworkError if it cannot be downloaded, SolveError if it has submodules."""
    store = directory.with_name(f"{directory.name}.git")
    _fetch(repository, commit, store)
    _local(["init", "--quiet", "--template=", str(directory)])
    _local(["fetch", "--quiet", "--depth=1", "--no-tags", store.as_uri(), commit], directory)
    _local(["checkout", "--quiet", "--detach", "FETCH_HEAD"], directory)
    if _local(["rev-parse", "HEAD"], directory).strip() != commit:
        raise NetworkError(f"{repository.shown} gave another commit than {commit}")
    if (directory / ".gitmodules").exists():
        hint = "build the wheel once, put it where all can get it, and write NAME @ URL"
        raise SolveError(f"{repository.shown} has submodules, which are not locked", hint)


def clone(repository: Repository, commit: str, directory: Path) -> None:
    """Put the files of a commit into a new directory, with its history and tags. Raises NetworkError."""
    _ask(repository, "clone", "--quiet", "--no-checkout", repository.shown, str(directory))
    _local(["checkout", "--quiet", "--detach", commit], directory)


def committed_at(directory: Path) -> int:
    """When the commit that is checked out was made, in seconds since 1970."""
    return int(_local(["show", "--no-patch", "--format=%ct", "HEAD"], directory))


def tree_sha256(directory: Path) -> str:
    """A hash of names, content and kinds of all checked-out files; git's own is SHA-1, which can be forged."""
    digest = hashlib.sha256()
    for name in sorted(_files(directory, "")):
        path = directory / name
        mode = path.lstat().st_mode
        content = os.fsencode(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes()
        kind = "link" if stat.S_ISLNK(mode) else "executable" if mode & stat.S_IXUSR else "file"
        digest.update(f"{kind} {hashlib.sha256(content).hexdigest()} {name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(directory: Path, below: str) -> Iterator[str]:
    with os.scandir(directory / below) as entries:
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if name != ".git":
                    yield from _files(directory, name)
            else:
                yield name


def _references(name: str) -> list[str]:
    # An annotated tag is an object of its own; with ^{} the repository says which commit it is about.
    if name == "HEAD" or name.startswith("refs/"):
        return [f"{name}^{{}}", name]
    return [f"refs/heads/{name}", f"refs/tags/{name}^{{}}", f"refs/tags/{name}"]


def _fetch(repository: Repository, commit: str, store: Path) -> None:
    _local(["init", "--quiet", "--bare", "--template=", str(store)])
    # Its only reader is the directory beside it, which asks for the commit by its hash.
    _local(["config", "uploadpack.allowAnySHA1InWant", "true"], store)
    here = ["-C", str(store), "fetch", "--quiet", "--no-tags"]
    try:
        _ask(repository, *here, "--depth=1", repository.shown, commit)
    except NetworkError:
        # Plain file servers cannot cut history off, and some servers give no commit that no branch ends in.
        _ask(repository, *here, repository.shown, "+refs/*:refs/found/*")
    try:
        _local(["cat-file", "-e", f"{commit}^{{commit}}"], store)
    except ProcessError:
        hint = "it was removed from the repository; envtool lock chooses another"
        raise NetworkError(f"{repository.shown} has no commit {commit}", hint) from None


def _ask(repository: Repository, *arguments: str) -> str:
    patience = configured_timeouts()
    ssh = f"ssh -oBatchMode=yes -oConnectTimeout={patience.connect_timeout_s:.0f}"
    environment = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:http:ssh:file:git"}
    environment["GIT_SSH_COMMAND"] = os.environ.get("GIT_SSH_COMMAND") or ssh
    limits = [f"http.lowSpeedLimit={patience.min_bytes_per_s:.0f}", f"http.lowSpeedTime={patience.read_timeout_s:.0f}"]
    try:
        return _git([*_options(limits), *arguments], {**environment, **_credentials(repository)})
    except ProcessError as error:
        if error.returncode == 127:
            raise NetworkError(f"git not found; {repository.shown} needs it", "install git") from error
        reason = without_secrets(error.output).strip() or f"git ended with exit status {error.returncode}"
        raise NetworkError(f"{repository.shown} could not be downloaded:\n  {reason}", _HINT) from error


def _local(arguments: Sequence[str], directory: Path | None = None) -> str:
    place = ["-C", str(directory)] if directory else []
    nothing = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}
    return _git([*place, *_options(_PLAIN), *arguments], nothing)


def _git(arguments: Sequence[str], env: Mapping[str, str]) -> str:
    # A git hook that runs us says in variables which repository is meant, and that is not the one here.
    ours = dict.fromkeys((name for name in os.environ if name.startswith("GIT_") and name.endswith(_PLACES)), "")
    return subprocesses.run(["git", *arguments], env={**ours, "LC_ALL": "C", **env}, hint="install git")


def _credentials(repository: Repository) -> dict[str, str]:
    # As configuration in the environment, since everybody on the machine can read the arguments of a process.
    full = credentials.expand(repository.url)
    if full == repository.shown:
        return {}
    count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    return {
        "GIT_CONFIG_COUNT": str(count + 1),
        f"GIT_CONFIG_KEY_{count}": f"url.{full}.insteadOf",
        f"GIT_CONFIG_VALUE_{count}": repository.shown,
    }


def _options(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("-c", setting)]
