"""Debian packages: where they are (apt's configuration in both formats, see sources.list(5), the user's mirrors, public
ones), and their reader, which unpacks nothing to disk. Out of scope: apt's own proxies, passwords and methods. Format:
deb(5), ar(5)."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from envtool.artifacts.conda_package import Entry, safe_path
from envtool.channel.python_recipe.recipe import PoolFile
from envtool.errors import ArchiveError
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


class AptSource(NamedTuple):
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
    """Where an archive is, best first; a mirror is a site with `debian/` and `debian-security/`, or one of the two."""
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
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    # apt allows blanks before the colon; a line that is none of a field would end all fields for the parser of mails.
    fields_only = (re.sub(r"^([^\s:]+)\s+:", r"\1:", line) for line in lines if re.match(r"\s|$|[^:]+:", line))
    for stanza in re.split(r"\n\s*\n", "\n".join(fields_only)):
        fields = HeaderParser().parsestr(stanza.lstrip())
        is_enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0")
        if "deb" not in fields.get("types", "").split() or not is_enabled:
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield AptSource(uri.rstrip("/"), suite, tuple(fields.get("components", "").split()))


def _read(path: Path, parse: Callable[[str], Iterator[AptSource]]) -> Iterator[AptSource]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such file, or one that only root may read: there are other places to look
        return
    yield from parse(text)


_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


class Deb(NamedTuple):
    """A whole package."""

    name: str
    version: str
    members: tuple[Entry, ...]


def read(path: Path) -> Deb:
    """Read a package. Raises ArchiveError if it is damaged, not a Debian package, or has an unsafe member."""
    try:
        parts = dict(_ar_members(path.read_bytes(), path.name))
        if parts.get("debian-binary", b"")[:2] != b"2.":
            raise ArchiveError(f"{path.name} is not a Debian package of format 2")
        files = {member.path: member.content for member in _tar(parts, "control.tar", path.name)}
        control = dict(HeaderParser().parsestr(files["control"].decode("utf-8")))
        name, version = control["Package"].strip(), control["Version"].strip()
        members = tuple(_tar(parts, "data.tar", path.name))
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, KeyError) as error:
        raise ArchiveError(f"{path.name} is damaged: {error}", "remove it from the cache and run again") from error
    return Deb(name, version, members)


def _ar_members(data: bytes, owner: str) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(_MAGIC):
        raise ArchiveError(f"{owner} is not an ar archive")
    offset = len(_MAGIC)
    while offset < len(data):
        header = data[offset : offset + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES or header[58:] != b"`\n":
            raise ArchiveError(f"{owner} is damaged: no member header at byte {offset}")
        size_bytes = int(header[48:58])
        start = offset + _HEADER_BYTES
        if size_bytes < 0 or start + size_bytes > len(data):
            raise ArchiveError(f"{owner} is damaged: it ends inside of a member")
        yield header[:16].decode("ascii").rstrip().rstrip("/"), data[start : start + size_bytes]
        offset = start + size_bytes + size_bytes % 2


def _tar(parts: dict[str, bytes], stem: str, owner: str) -> Iterator[Entry]:
    for name, data in parts.items():
        if name.partition(".tar")[0] + ".tar" == stem:
            unpack: dict[str, Callable[[bytes], bytes]] = {
                "": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress, ".zst": _decompress_zst,
            }  # fmt: skip
            ending = name.rpartition(".tar")[2]
            if ending not in unpack:
                raise ArchiveError(f"{owner} is packed in a way that is not known: {name}")
            return _tar_members(unpack[ending](data), owner)
    raise ArchiveError(f"{owner} has no member {stem}")


def _decompress_zst(data: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
            return stream.read()
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _tar_members(data: bytes, owner: str) -> Iterator[Entry]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            path = safe_path(info.name, owner)
            if info.isdir():
                continue
            if not (info.isfile() or info.issym() or info.islnk()):
                raise ArchiveError(f"{owner} has a member that is neither a file nor a link: {path}")
            if info.islnk():
                safe_path(info.linkname, owner)
            # extractfile follows a hard link to the member that has its bytes.
            file = None if info.issym() else tar.extractfile(info)
            content = file.read() if file else b""
            link = info.linkname if info.issym() else None
            yield Entry(path, content, bool(info.mode & 0o100), link)
