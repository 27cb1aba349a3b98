"""Link scripts: none runs unless the lock allows it, and then with the environment as the only place to write to."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from envtool.prefix.confinement import landlock_version
from tests.functional.prefix.conftest import ROOT, User
from tests.support.archives import Archive, File, locked


def lock(user: User, tmp_path: Path, script: str, *, allow: str = '["plot"]', more: tuple[str, ...] = ()) -> Path:
    files = {"bin/.plot-post-link.sh": File(script.encode(), 0o755), "bin/.plot-pre-unlink.sh": File(b"exit 1\n")}
    base = Archive("base", {"share/base": File(b"base\n"), "bin/.base-post-link.sh": File(b"exit 7\n")})
    archives = [Archive("plot", files, depends=("base",)), base, *(Archive(each, {each: File()}) for each in more)]
    packages = [locked(each.write(tmp_path)) for each in archives]
    return user.write_lock(*packages, envtool_run_link_scripts=allow)


SCRIPT = """\
set -e
cat "$PREFIX/share/base" > "$PREFIX/share/made"
echo "$PKG_NAME $PKG_VERSION $PKG_BUILDNUM $PREFIX" >> "$PREFIX/share/made"
echo noise > "$HOME/x"; mktemp > /dev/null
echo "run plot-config" >> "$PREFIX/.messages.txt"
"""


def test_what_an_allowed_script_makes_belongs_to_the_environment(user: User, tmp_path: Path) -> None:
    path = lock(user, tmp_path, SCRIPT)
    one, two = user.home / "env", user.home / "another-place"
    answer = user.run("create", "-p", one, "--json")
    told = json.loads(answer.stdout)
    assert told["link_scripts_run"] == ["bin/.plot-post-link.sh"]
    assert told["messages"] == ["plot: run plot-config"]
    assert told["link_scripts"] == {"plot": ["bin/.plot-pre-unlink.sh"], "base": ["bin/.base-post-link.sh"]}
    assert (one / "share/made").read_text() == f"base\nplot 1.0 0 {one}\n"
    assert not (one / ".messages.txt").exists()
    user.run("verify", "-p", one, "-f", path, "--rebuild")
    assert "nothing to do" in user.run("create", "-p", one).stderr
    (one / "share/made").write_text("another\n")
    assert "mismatched  share/made" in user.run("verify", "-p", one, code=1).stdout
    user.run("create", "-p", one, "--repair")
    user.run("verify", "-p", one)
    user.run("create", "-p", two)  # from unpacked packages
    assert user.run("digest", "-p", one).stdout == user.run("digest", "-p", two).stdout


def test_what_came_before_does_not_matter(user: User, tmp_path: Path) -> None:
    prefix = user.home / "env"
    lock(user, tmp_path, SCRIPT, allow="[]")
    assert "plot has link scripts" in user.run("create", "-p", prefix).stderr
    assert not (prefix / "share/made").exists()
    plain = user.run("digest", "-p", prefix).stdout
    lock(user, tmp_path, SCRIPT)  # the permission alone is new
    user.run("create", "-p", prefix)
    made = user.run("digest", "-p", prefix).stdout
    assert (prefix / "share/made").exists()
    lock(user, tmp_path, SCRIPT, more=("third",))
    user.run("create", "-p", prefix)
    lock(user, tmp_path, SCRIPT)
    user.run("create", "-p", prefix)
    assert user.run("digest", "-p", prefix).stdout == made
    lock(user, tmp_path, SCRIPT, allow="[]")
    user.run("create", "-p", prefix)
    assert user.run("digest", "-p", prefix).stdout == plain != made


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_nothing_outside_of_the_environment_can_be_written(user: User, tmp_path: Path) -> None:
    outside, victim = user.home / "outside", user.home / "victim"
    victim.write_text("whole\n")
    escapes = [
        f"echo x > {outside}", f"rm {victim}", f"mv $PREFIX/share/base {outside}", f": > {victim}", f"mkdir {outside}",
        f"ln -s /x {outside}", f"ln {victim} {outside}", f"tee {outside} < /dev/null", f"mv {victim} $PREFIX/share/x",
    ]  # fmt: skip
    lock(user, tmp_path, "\n".join(f"{each} && echo done: '{each}'" for each in escapes) + "\nexit 1\n")
    told = user.run("create", "-p", user.home / "env", code=3).stderr
    assert "done:" not in told
    assert told.count("Permission denied") == len(escapes)
    assert "bin/.plot-post-link.sh failed; take it out of run-link-scripts" in told
    assert not outside.exists()
    assert victim.read_text() == "whole\n"
    assert "not whole" in user.run("verify", "-p", user.home / "env", code=3).stderr


def run_without(user: User, number: int, error: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run envtool where the kernel answers one system call with an error."""
    refusing = [sys.executable, str(ROOT / "tests/support/without_syscall.py"), str(number), str(error)]
    argv = [*refusing, sys.executable, "-m", "envtool", *map(str, arguments)]
    return subprocess.run(argv, cwd=user.home, env=user.env, capture_output=True, text=True, timeout=300)


CREATE_RULESET, RESTRICT_SELF = 444, 446


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seccomp is Linux's")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_without_landlock_the_scripts_run_and_create_names_it(user: User, tmp_path: Path, error: int) -> None:
    path, prefix = lock(user, tmp_path, f"{SCRIPT}\necho x > $PREFIX/../outside"), user.home / "env"
    told = run_without(user, CREATE_RULESET, error, "create", "-p", prefix)
    assert told.returncode == 0, told.stderr
    assert "ran bin/.plot-post-link.sh: not confined, since Landlock is not available here" in told.stderr
    assert (user.home / "outside").exists()
    verified = run_without(user, CREATE_RULESET, error, "verify", "-p", prefix, "-f", path, "--rebuild")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_nothing_runs_where_landlock_is_there_and_fails(user: User, tmp_path: Path) -> None:
    lock(user, tmp_path, "echo x > $PREFIX/../outside")
    told = run_without(user, RESTRICT_SELF, errno.EPERM, "create", "-p", user.home / "env")
    assert told.returncode == 3
    assert "Landlock, which this kernel has, cannot be used here: Operation not permitted" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (user.home / "outside").exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo why >&2; exit 3", "why"),
        ("echo {} > $PREFIX/conda-meta/evil-1-0.json", "the link script of plot changed"),
        ("rm $PREFIX/conda-meta/.incomplete", "the link script of plot changed"),
        ("echo other > $PREFIX/share/base", "did a link script of plot change it?"),
    ],
)
def test_a_script_that_fails_or_does_what_it_must_not(user: User, tmp_path: Path, script: str, words: str) -> None:
    lock(user, tmp_path, script)
    assert words in user.run("create", "-p", user.home / "env", code=3).stderr
    lock(user, tmp_path, script, allow="[]")
    user.run("create", "-p", user.home / "env")


def test_doctor_tells_which_scripts_create_runs(user: User, tmp_path: Path) -> None:
    lock(user, tmp_path, SCRIPT)
    user.run("create", "-p", user.home / "env")
    found = json.loads(user.run("doctor", "--offline", "--json").stdout)["findings"]
    notes = [each["message"] for each in found if each["check"] == "link-scripts"]
    assert notes == [
        "base has link scripts, which envtool does not run: bin/.base-post-link.sh",
        "plot has link scripts, which envtool does not run: bin/.plot-pre-unlink.sh",
        "create runs bin/.plot-post-link.sh, as the lock allows",
    ]
