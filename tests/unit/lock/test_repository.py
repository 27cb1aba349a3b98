"""Requirements that name a git repository, as text and in a lock; nothing is asked."""

from __future__ import annotations

import re

import pytest

from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile, format_lockfile, parse_lockfile
from envtool.lockfile.model import Repository, SourceBuild, Tool, parse_repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git+https://h.example/a/b.git", Repository("https://h.example/a/b.git")),
        ("git+https://h.example/@a/b.git@v1", Repository("https://h.example/@a/b.git", "v1")),
        ("git+ssh://git@h.example/b.git@feature/x", Repository("ssh://git@h.example/b.git", "feature/x")),
        ("git+file:///srv/b.git@v1#subdirectory=a/b", Repository("file:///srv/b.git", "v1", "a/b")),
        ("git+https://x:${TOKEN}@h.example/b@v1", Repository("https://x:${TOKEN}@h.example/b", "v1")),
        (f"git+https://h.example/b.git@{COMMIT}", Repository("https://h.example/b.git", COMMIT)),
    ],
)
def test_what_a_url_says(text: str, expected: Repository) -> None:
    assert parse_repository(text) == expected
    assert str(expected) == text


def test_the_name_of_the_distribution_may_stand_behind_the_url() -> None:
    assert (
        str(parse_repository("git+https://h.example/b.git#egg=b&subdirectory=c"))
        == "git+https://h.example/b.git#subdirectory=c"
    )


def test_git_is_never_told_a_password_in_its_arguments() -> None:
    assert parse_repository("git+https://x:${TOKEN}@h.example/b.git").shown == "https://h.example/b.git"
    assert parse_repository("git+ssh://git@h.example/b.git").shown == "ssh://git@h.example/b.git"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("git+https://h.example/b.git#subdirectory=../c", "subdirectory '../c' leads out of the repository"),
        ("git+https://h.example/b.git#sha256=00", "sha256 after # has no meaning"),
        ("git+https://h.example/b.git@--upload-pack=x", "'--upload-pack=x' is not a branch, tag or commit"),
        ("git+https://me:secret@h.example/b.git", "credentials in https://h.example/b.git"),
        ("git+ssh://git@h.example:org/x.git", "'org' is not a port; write git@h.example/org/…, with a slash"),
        ("git+ext::sh -c true", "expected git+ and https"),
    ],
)
def test_urls_that_cannot_be_used(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_repository(text)


def locked(**changes: object) -> Lockfile:
    tool = Tool("flit-core", "3.12.0", "https://h.example/flit_core-3.12.0-py3-none-any.whl", "b" * 64)
    fields = {
        "manager": "pip", "name": "greet", "version": "1.0", "platform": "linux-64", "sha256": "a" * 64,
        "url": f"git+https://h.example/greet.git@{COMMIT}",
        "built": SourceBuild("greet-1.0-py3-none-any.whl", "1.0", "c" * 64, 1767323045, (tool,)),
    }  # fmt: skip
    package = LockedPackage(**{**fields, **changes})  # type: ignore[arg-type]
    return Lockfile((package,), ("conda-forge",), ("linux-64",), ("environment.yml",), {"linux-64": "d" * 64})


def test_a_lock_keeps_how_a_wheel_is_built() -> None:
    text = format_lockfile(locked())
    assert parse_lockfile("conda-lock.yml", text) == locked()
    assert f"  source:\n    type: url\n    url: git+https://h.example/greet.git@{COMMIT}\n" in text
    assert locked().packages[0].file_name == "greet-1.0-py3-none-any.whl"


def test_a_lock_of_conda_lock_which_writes_the_commit_for_a_hash() -> None:
    text = format_lockfile(locked(built=None)).replace("a" * 64, COMMIT)
    assert parse_lockfile("conda-lock.yml", text).packages[0].sha256 is None
