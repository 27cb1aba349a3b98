"""The places of Debian's archives: the machine's apt configuration first, then the user's mirrors, then public ones.

Both formats of apt are read, deb822 (`.sources`) and one line per source (`.list`); see sources.list(5). Out of scope:
apt's own proxy and authentication settings (ours are those of `envtool.fetch.client`), and `mirror+…`, `cdrom:` and
other methods that only apt speaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envtool.channel.python_recipe.recipe import PoolFile
from envtool.fetch.archive_cache import Wanted

CONFIGURATION = Path("/etc/apt")
PUBLIC_SITES = ("https://mirrors.tuna.tsinghua.edu.cn", "https://mirrors.ustc.edu.cn")
_DIRECTORIES = {"main": "debian", "security": "debian-security"}
_METHODS = ("http://", "https://", "file:")
# A suite of anybody else (Ubuntu's, Docker's, NodeSource's) has other packages under other paths: asking costs time.
_DEBIAN_SUITES = re.compile(
    r"(?:(?:old)*stable|testing|unstable|sid|buster|bullseye|bookworm|trixie|forky|duke)(?:$|[-/])"
)
_ONE_LINE = re.compile(r"deb\s+(?:\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)\s*$")


@dataclass(frozen=True)
class AptSource:
    """One enabled source of binary packages."""

    uri: str
    suite: str
    components: tuple[str, ...]

    @property
    def archive(self) -> str | None:
        """`main` or `security` for Debian's own archives, None for anybody else's."""
        if not _DEBIAN_SUITES.match(self.suite) or "main" not in self.components or not self.uri.startswith(_METHODS):
            return None
        return "security" if self.suite.endswith(("-security", "/updates")) else "main"


def wanted(file: PoolFile, user_mirrors: Sequence[str], sources: Sequence[AptSource]) -> Wanted:
    """A pool file with every place where it may be."""
    bases = base_uris(file.archive, user_mirrors, sources)
    return Wanted(file.name, file.sha256, tuple(f"{base}/{file.path}" for base in bases))


def base_uris(archive: str, user_mirrors: Sequence[str], sources: Sequence[AptSource]) -> tuple[str, ...]:
    """Where an archive is, the best place first.

    A mirror of the user's is a site that has `debian/` and `debian-security/`, or the URL of one of the two.
    """
    # apt allows file:/path, URLs need file:///path.
    own = [re.sub(r"^file:/(?!/)", "file:///", source.uri) for source in sources if source.archive == archive]
    sites = [re.sub(r"/debian(?:-security)?$", "", url.rstrip("/")) for url in user_mirrors]
    named = [f"{site}/{_DIRECTORIES[archive]}" for site in (*sites, *PUBLIC_SITES)]
    return tuple(dict.fromkeys([*own, *named]))


def configured(directory: Path = CONFIGURATION) -> tuple[AptSource, ...]:
    """The sources that apt is configured for; none on a machine without apt."""
    parts = directory / "sources.list.d"
    found = list(_read(directory / "sources.list", parse_list))
    for path in sorted(parts.glob("*.list")) + sorted(parts.glob("*.sources")):
        found += _read(path, parse_list if path.suffix == ".list" else parse_deb822)
    return tuple(found)


def parse_list(text: str) -> Iterator[AptSource]:
    """The `deb` lines of a `.list` file; anything else is not for us."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            yield AptSource(match["uri"].rstrip("/"), match["suite"], tuple(match["components"].split()))


def parse_deb822(text: str) -> Iterator[AptSource]:
    """The enabled `deb` stanzas of a `.sources` file, one source for each URI and suite."""
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield AptSource(uri.rstrip("/"), suite, tuple(fields.get("components", "").split()))


def _stanzas(text: str) -> Iterator[Mapping[str, str]]:
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            fields[last] = f"{fields.get(last, '')} {line.strip()}"
        else:
            key, _, value = line.partition(":")
            last = key.strip().lower()
            fields[last] = value.strip()


def _read(path: Path, parse: Callable[[str], Iterator[AptSource]]) -> Iterator[AptSource]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such file, or one that only root may read: there are other places to look
        return
    yield from parse(text)
