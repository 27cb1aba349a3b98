"""Any Debian package becomes a conda package: its files below the prefix, its libraries found beside them.

What an ELF file needs has to be in a package that is made with it, or in one that the user names for one of Debian's;
anything else is refused, since it would be found on some machines only. What cannot be moved into a prefix is refused
(a path that no prefix has, a program that changes its rights, a Python module) or said (a path that is built into a
binary, a script that Debian runs when it installs). Out of scope: CPython (`envtool.channel.python_recipe.cpython`), what a program
opens at run time without saying so, and 32-bit architectures.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from envtool.artifacts.conda_package import Entry, Package
from envtool.channel.python_recipe import debian_layout as layout
from envtool.channel.python_recipe import elf
from envtool.channel.python_recipe.deb_archive import Deb, Member
from envtool.channel.python_recipe.debian_control import Dependency, conda_name, conda_version, dependencies, subdir
from envtool.channel.python_recipe.debian_licenses import copyrights, license_expression
from envtool.channel.python_recipe.elf import Patchelf
from envtool.errors import ArchiveError

_GLIBC = ("libc6", "libc-bin", "libc6-dev")
_SET_UP = ("preinst", "postinst", "config")
_SHOWN = 3


@dataclass(frozen=True)
class Wish:
    """What Debian packages are wanted as.

    Args:
        depends: Match specs that every package needs on top of what is found.
        names: What takes the place of a Debian package that is not made here: a package of the channel's, or "" for
            nothing.
        build_number: Decides between builds of one version: the higher wins.
    """

    depends: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    build_number: int = 0


@dataclass(frozen=True)
class Made:
    """A package, and what has to be said about it.

    Args:
        package: The package.
        notes: Sentences about what does not work as on Debian.
    """

    package: Package
    notes: tuple[str, ...]


def convert(debs: Sequence[Deb], wish: Wish, patchelf: Patchelf, scratch: Path) -> list[Made]:
    """Make conda packages of Debian packages that belong together.

    Args:
        debs: The packages; those that others of them need are among them, or named in the wish.
        wish: What they are wanted as.
        patchelf: Reads and sets run paths.
        scratch: A directory for files meanwhile.

    Returns:
        One for each, in their order; the same bytes for the same packages.

    Raises:
        ArchiveError: One cannot be moved into a prefix, or needs what is not there.
    """
    files = {deb.name: _Placed(deb, dict(_placed(deb))) for deb in debs}
    return [_Conversion(each, files, wish, patchelf, scratch).made() for each in files.values()]


@dataclass(frozen=True)
class _Placed:
    deb: Deb
    members: Mapping[str, Member]

    @property
    def own(self) -> set[str]:
        """The files and directories that a text of this package may mean."""
        return {*self.members, *layout.directories(self.members)}


def _placed(deb: Deb) -> Iterator[tuple[str, Member]]:
    if deb.name in _GLIBC:
        raise ArchiveError(f"{deb.name} is a part of glibc, which belongs to the machine and never to a prefix")
    for member in deb.members:
        path = layout.place(member.path)
        if path is None:
            raise ArchiveError(f"{deb.name} has /{member.path}, which no prefix has a place for")
        if member.is_privileged:
            raise ArchiveError(
                f"{deb.name} has {path}, which runs with the rights of its owner: no prefix can hold that"
            )
        if path.startswith("lib/python3/"):
            raise ArchiveError(f"{deb.name} is a module of Debian's own Python", "take its wheel: --wheel, or pip:")
        yield path, member


@dataclass(frozen=True)
class _Conversion:
    placed: _Placed
    all: Mapping[str, _Placed]
    wish: Wish
    patchelf: Patchelf
    scratch: Path

    def made(self) -> Made:
        deb = self.placed.deb
        licenses = copyrights(deb, {name: each.deb for name, each in self.all.items()})
        entries = [self._entry(path, member) for path, member in sorted(self.placed.members.items())]
        linked = {each.path: each for each in entries if each.link is None and elf.is_linked(each)}
        package = Package(
            name=conda_name(deb.name),
            version=conda_version(deb),
            build_number=self.wish.build_number,
            subdir=subdir(deb),
            depends=self._depends([*linked.values()]),
            license=license_expression(licenses),
            summary=deb.control.get("Description", ""),
            home=deb.control.get("Homepage"),
            files=tuple(self._linked(each) if each.path in linked else each for each in entries),
            about=(*licenses, self._origin()),
            is_generic=True,
        )
        return Made(package, tuple(self._notes(entries)))

    def _entry(self, path: str, member: Member) -> Entry:
        if member.link is not None:
            return self._link(path, member)
        if member.content.startswith(b"\x7fELF"):
            return Entry(path, member.content, member.is_executable)
        content = layout.with_placeholder(path, member.content, self._known)
        return Entry(path, content, member.is_executable, has_placeholder=content != member.content)

    def _link(self, path: str, member: Member) -> Entry:
        target = layout.link_target(member.path, member.link or "")
        if target is None:
            raise ArchiveError(
                f"{self.placed.deb.name} has the link {path} to {member.link}, which is out of the prefix"
            )
        end = self._end(posixpath.normpath(f"{posixpath.dirname(path)}/{target}"))
        return Entry(path, end.content if end else b"", link=target)

    def _end(self, path: str) -> Member | None:
        # The file behind a chain of links, in whichever package it is; none for a directory.
        for _ in range(8):
            member = next((each.members[path] for each in self.all.values() if path in each.members), None)
            if member is None or member.link is None:
                return member
            target = layout.link_target(member.path, member.link)
            path = posixpath.normpath(f"{posixpath.dirname(path)}/{target}")
        return None

    def _needed(self) -> list[_Placed]:
        names = {name for each in dependencies(self.placed.deb) for name in each.names}
        return [each for name, each in self.all.items() if name in names]

    @cached_property
    def _known(self) -> set[str]:
        # What a text may mean: files of this package and of those that it needs.
        known = self.placed.own.union(*(each.own for each in self._needed()))
        for debian, conda in self._renamed().items():
            known |= {f"bin/{debian}", f"bin/{conda.partition(' ')[0]}"}
        return known

    def _renamed(self) -> dict[str, str]:
        names = [name for each in dependencies(self.placed.deb) for name in each.names]
        return {name: self.wish.names[name] for name in names if self.wish.names.get(name)}

    def _depends(self, linked: Sequence[Entry]) -> tuple[str, ...]:
        found = {spec for each in dependencies(self.placed.deb) for spec in self._spec(each)}
        for entry in linked:
            found.update(self._specs_of_libraries(entry))
        glibc = max((elf.least_glibc(each) for each in linked), default=(0, 0))
        system = [f"__glibc >={glibc[0]}.{glibc[1]}"] if any(glibc) else []
        return (*system, *sorted({*found, *self.wish.depends}))

    def _spec(self, dependency: Dependency) -> Iterator[str]:
        names = dependency.names
        here = next((name for name in names if name in self.all), None)
        if here is not None:
            yield _pin(self.all[here].deb, dependency.is_exact)
        elif any(name in self.wish.names for name in names):
            yield from (self.wish.names[name] for name in names if self.wish.names.get(name))
        elif not set(names) & set(_GLIBC):
            raise ArchiveError(
                f"{self.placed.deb.name} depends on {' or '.join(names)}, which is not among the packages",
                f"add it with --deb, or name what conda has in its place: --rename {names[0]}=NAME; no NAME for none",
            )

    def _specs_of_libraries(self, entry: Entry) -> Iterator[str]:
        needed = self.patchelf.needed(elf.write(entry, self.scratch))
        own = {posixpath.basename(path) for path in self.placed.members}
        exact = {name for each in dependencies(self.placed.deb) if each.is_exact for name in each.names}
        for library in sorted(needed - own):
            owner = next((each for each in self.all.values() if f"lib/{library}" in each.members), None)
            if owner is not None:
                yield _pin(owner.deb, owner.deb.name in exact)
            elif not self._renamed():
                raise ArchiveError(
                    f"{entry.path} of {self.placed.deb.name} needs {library}, which none of the packages has",
                    "add the Debian package that has it with --deb",
                )

    def _linked(self, entry: Entry) -> Entry:
        path = elf.write(entry, self.scratch)
        before = self.patchelf.run_path(path)
        if not before and not self.patchelf.needed(path):
            return entry
        places = [*(self._run_path(entry.path, each) for each in before), _from(entry.path, "lib")]
        return elf.with_run_path(entry, ":".join(dict.fromkeys(filter(None, places))), self.patchelf, self.scratch)

    def _run_path(self, path: str, directory: str) -> str | None:
        if directory.startswith("$ORIGIN"):
            return directory
        placed = layout.place(directory.strip("/"))
        return _from(path, placed) if placed else None

    def _origin(self) -> Entry:
        said = {"package": self.placed.deb.name, "version": self.placed.deb.version}
        return Entry("recipe/debian.json", (json.dumps(said, indent=1) + "\n").encode())

    def _notes(self, entries: Sequence[Entry]) -> Iterator[str]:
        deb = self.placed.deb
        scripts = [each for each in deb.scripts if each in _SET_UP]
        if scripts:
            yield f"{deb.name}: Debian runs {' and '.join(scripts)} when it installs this; nothing does so here"
        for entry in entries:
            fixed = sorted(set(layout.fixed_paths(entry.content, self._known))) if b"\0" in entry.content else []
            if fixed and entry.link is None and not entry.path.startswith("share/"):
                shown = ", ".join(fixed[:_SHOWN]) + (" and others" if len(fixed) > _SHOWN else "")
                yield f"{deb.name}: {entry.path} has {shown} built in, and looks there and not in the prefix"


def _pin(deb: Deb, is_exact: bool) -> str:
    return f"{conda_name(deb.name)} {'==' if is_exact else '>='}{conda_version(deb)}"


def _from(path: str, directory: str) -> str:
    return posixpath.join("$ORIGIN", posixpath.relpath(directory, posixpath.dirname(path) or ".")).rstrip("/.")
