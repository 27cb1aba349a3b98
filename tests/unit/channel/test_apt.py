from __future__ import annotations

from pathlib import Path

from envtool.channel.python_recipe import debian
from envtool.channel.python_recipe.debian import AptSource
from envtool.channel.python_recipe.recipe import PoolFile

ONE_LINE = """\
# the main archive
deb http://mirror.example/debian bookworm main contrib   # with a comment
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] https://mirror.example/debian-security/ bookworm-security main
deb [ trusted=yes ] file:/srv/debian bullseye main
deb http://old.example/debian-security buster/updates main
deb https://docker.example/linux/debian bookworm stable
deb http://ubuntu.example/ubuntu jammy main
deb mirror+file:/etc/apt/mirrors.txt bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://flat.example/repo ./
nonsense
"""

DEB822 = """\
# the whole
Types: deb deb-src
URIs: http://one.example/debian
  http://two.example/debian/
Suites: bookworm
# a comment inside of a stanza
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 Types: deb
 -----END PGP PUBLIC KEY BLOCK-----

types: deb
uris: http://one.example/debian-security
suites: bookworm-security
components: main

Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main


Types: deb
URIs: http://tools.example/node_20.x
Suites: nodistro
Components: main

nonsense
Types : deb
URIs	: http://blanks.example/debian-security
nonsense
Suites: bookworm-security
Components: main
"""


def by_archive(sources: list[AptSource]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for source in sources:
        found.setdefault(source.archive, []).append(source.uri)
    return found


def test_lines_of_a_list_file() -> None:
    found = by_archive(list(debian.parse_list(ONE_LINE)))
    assert found["main"] == ["http://mirror.example/debian", "file:/srv/debian"]
    assert found["security"] == ["https://mirror.example/debian-security", "http://old.example/debian-security"]
    assert "https://docker.example/linux/debian" in found[None]
    assert "http://ubuntu.example/ubuntu" in found[None]


def test_stanzas_of_a_sources_file() -> None:
    found = by_archive(list(debian.parse_deb822(DEB822)))
    one, two = "http://one.example/debian", "http://two.example/debian"
    assert found["main"] == [one, one, two, two]
    assert found["security"] == ["http://one.example/debian-security", "http://blanks.example/debian-security"]
    assert found[None] == ["http://tools.example/node_20.x"]


def test_the_machine_comes_first_then_the_user_then_public_mirrors(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.list").write_text("deb http://b.example/debian bookworm main\n")
    (parts / "c.sources").write_text(
        "Types: deb\nURIs: http://c.example/debian\nSuites: bookworm sid\nComponents: main\n"
    )
    (parts / "d.list.disabled").write_text("deb http://d.example/debian bookworm main\n")
    (parts / "e.list").mkdir()
    sources = debian.configured(tmp_path)
    uris = debian.base_uris("main", ["https://user.example/", "https://other.example/debian-security"], sources)
    assert uris == (
        "http://a.example/debian",
        "http://b.example/debian",
        "http://c.example/debian",
        "https://user.example/debian",
        "https://other.example/debian",
        *(f"{site}/debian" for site in debian.PUBLIC_SITES),
    )
    assert (
        debian.base_uris("security", ["https://user.example/debian"], ())[0] == "https://user.example/debian-security"
    )


def test_a_machine_without_apt_has_mirrors_still(tmp_path: Path) -> None:
    assert debian.configured(tmp_path / "nothing") == ()
    assert len(debian.base_uris("main", (), ())) == len(debian.PUBLIC_SITES)


def test_a_wanted_file_names_every_place() -> None:
    sources = (AptSource("file:/srv/debian", "bookworm", ("main",)),)
    file = PoolFile("main", "pool/main/z/zlib/zlib1g_1.2.11.dfsg-2+deb11u2_amd64.deb", "0" * 64)
    wanted = debian.wanted(file, (), sources)
    assert wanted.name == "zlib1g_1.2.11.dfsg-2+deb11u2_amd64.deb"
    assert wanted.urls[0] == f"file:///srv/debian/{file.path}"
