"""The files of conda, pip, uv and envtool: what is asked for goes in and out, everything else stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtool.errors import InvalidFileError
from envtool.mirrors import configure
from envtool.mirrors.configure import use

FORGE, MAIN = "https://conda.anaconda.org/conda-forge/", "https://repo.anaconda.com/pkgs/main/"
M1 = {FORGE: "https://m1.example/cloud/conda-forge/", MAIN: "https://m1.example/pkgs/main/"}
M2 = {FORGE: "https://m2.example/cloud/conda-forge/"}
KNOWN = {*M1.values(), *M2.values()}
CONDARC = """\
# mine
channels:
    - conda-forge   # the one
    - defaults
custom_channels:
    corp: https://corp.example/conda  # ours
ssl_verify: '/etc/ca.pem'
strange_key: {a: 1}
"""
FLUSH = "channels:\n- conda-forge\n# end\n"


def test_condarc_takes_mirrors_and_keeps_the_rest() -> None:
    text = configure.rewrite_condarc(CONDARC.replace("    ", "  "), M1, KNOWN)
    assert (
        text
        == CONDARC.replace("    ", "  ").replace("  # ours\n", "  # ours\n  conda-forge: https://m1.example/cloud\n")
        + "default_channels:\n  - https://m1.example/pkgs/main\n"
    )
    other = configure.rewrite_condarc(text, M2, KNOWN)
    assert "m1.example" not in other
    assert "conda-forge: https://m2.example/cloud" in other
    assert configure.rewrite_condarc(other, {}, KNOWN) == CONDARC.replace("    ", "  ")


@pytest.mark.parametrize(
    "text", ["", "# nothing but a comment\n", FLUSH, "channels: [a, b]\n", "a: 1 # x\n\n# y\nb: 2\n"]
)
def test_condarc_in_and_out_is_the_same(text: str) -> None:
    there = configure.rewrite_condarc(text, M1, KNOWN)
    assert "m1.example" in there
    assert all(line in there for line in text.splitlines())
    assert configure.rewrite_condarc(there, {}, KNOWN) == text


def test_condarc_keeps_what_the_user_mirrors_himself() -> None:
    text = "default_channels:\n  - https://corp.example/main\ncustom_channels:\n  nvidia: https://corp.example\n"
    assert configure.rewrite_condarc(text, {}, KNOWN) == text


@pytest.mark.parametrize("text", ["a: [", "- a\n", "a: 1\na: 2\n"])
def test_a_broken_condarc_is_a_known_error(text: str) -> None:
    with pytest.raises(InvalidFileError, match=r"\.condarc has 1 problem"):
        configure.rewrite_condarc(text, M1, KNOWN)


I1, I2 = "https://m1.example/simple", "https://m2.example/simple"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", f"[global]\nindex-url = {I1}\n", id="no file"),
        pytest.param("[global]\n# x\ntimeout=6\n", f"[global]\nindex-url = {I1}\n# x\ntimeout=6\n", id="a section"),
        pytest.param("[install]\nuser=no", f"[install]\nuser=no\n[global]\nindex-url = {I1}\n", id="another section"),
        pytest.param("[global]\nindex_url: https://x/ \n", f"[global]\nindex_url: {I1}\n", id="the other spelling"),
        pytest.param("[install]\nindex-url=x\n", f"[install]\nindex-url={I1}\n", id="the section that goes over it"),
        pytest.param("[list]\nindex-url=x\n", f"[list]\nindex-url=x\n[global]\nindex-url = {I1}\n", id="not another's"),
        pytest.param("[global]\r\na=1\r\n", f"[global]\r\nindex-url = {I1}\r\na=1\r\n", id="line ends"),
        pytest.param("[global]", f"[global]\nindex-url = {I1}\n", id="no line end"),
        pytest.param(
            "[global]\nfind-links =\n    a\n    index-url = b\n",
            f"[global]\nindex-url = {I1}\nfind-links =\n    a\n    index-url = b\n",
            id="a value of several lines",
        ),
    ],
)  # fmt: skip
def test_pip_conf(text: str, expected: str) -> None:
    assert configure.rewrite_pip_conf(text, I1, {I1, I2}) == expected


def test_pip_conf_off_takes_out_only_mirrors() -> None:
    assert configure.rewrite_pip_conf(f"[global]\nindex-url = {I1}\n", None, {I1}) == ""
    assert (
        configure.rewrite_pip_conf(f"# x\n[global]\nindex-url = {I1}/\ntimeout = 3\n", None, {I1})
        == "# x\n[global]\ntimeout = 3\n"
    )
    own = "[global]\nindex-url = https://corp.example/simple\n"
    assert configure.rewrite_pip_conf(own, None, {I1}) == own


@given(st.lists(st.sampled_from(["# c", "[global]", "[install]", "timeout = 3", "trusted-host = a", "  b", ""])))
def test_pip_conf_loses_no_line(lines: list[str]) -> None:
    text = "".join(f"{each}\n" for each in lines)
    changed = configure.rewrite_pip_conf(text, I1, {I1})
    assert changed.count(I1) == 1
    left = [line for line in changed.splitlines() if I1 not in line]
    assert left == lines or left == [*lines, "[global]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", f'[[index]]\nurl = "{I1}"\ndefault = true\n', id="no file"),
        pytest.param(
            '# c\n[[index]]\nurl = "https://x/"\ndefault = true # d\n',
            f'# c\n[[index]]\nurl = "{I1}"\ndefault = true # d\n',
            id="a default",
        ),
        pytest.param('index-url = "https://x/"\n', f'index-url = "{I1}"\n', id="the older way"),
    ],
)  # fmt: skip
def test_uv_toml(text: str, expected: str) -> None:
    assert configure.rewrite_uv_toml(text, I1, {I1}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "# c\noffline = true\n",
        '[[index]]\nname = "corp"\nurl = "https://corp.example/simple"\n',
        'index = [{ url = "https://corp.example/simple" }]\n',
        "[pip]\n# p\nno-build = true\n",
    ],
)
def test_uv_toml_in_and_out(text: str) -> None:
    there = configure.rewrite_uv_toml(text, I1, {I1})
    assert there.count(I1) == 1
    assert "default = true" in there
    assert all(line in there for line in text.splitlines() if not line.startswith("index = "))
    out = configure.rewrite_uv_toml(there, None, {I1})
    assert out.split() == text.split()


def test_our_own_configuration() -> None:
    text = '# c\n[mirrors]\n"https://a/" = ["https://b/"] # d\n\n[presets.x]\ntitle = "X"\n'
    changed = use(text, ["tuna", "sjtu"])
    assert 'use = ["tuna", "sjtu"]' in changed
    assert use(changed, ["off"]) == text
    assert use("", ["auto"]) == '[mirrors]\nuse = "auto"\n'
    assert use('[mirrors]\nuse = "auto"\n', ["off"]) == ""
    assert use('mirrors = "auto"\n', ["off"]) == ""


@pytest.mark.parametrize(
    "rewrite", [lambda text: use(text, ["off"]), lambda text: configure.rewrite_uv_toml(text, I1, set())]
)
def test_broken_toml_is_a_known_error(rewrite: object) -> None:
    with pytest.raises(InvalidFileError, match="not TOML"):
        rewrite("[a\n")  # type: ignore[operator]
