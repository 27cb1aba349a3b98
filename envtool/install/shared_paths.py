"""Carrying out that packages share paths: what loses one gives way before it is installed. Where a change touches a
shared path, the prefix is made anew: what the one that left had covered is in no file of the prefix."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envtool.artifacts.download import require_sha256
from envtool.artifacts.file_manifest import Brought, Checksum, checksums_of, kept_at, place_in_prefix, place_of
from envtool.lockfile.model import LockedPackage
from envtool.package_cache.unpacked import Placement
from envtool.prefix.conda_meta import conda_packages, wheel_files
from envtool.prefix.layout import Lost, Package, losses, parents, site_packages

if TYPE_CHECKING:
    from envtool.install.create import Transaction


class SharedPathsError(Exception):
    """A change touches a path that another package has too, so that the prefix has to be made anew."""

    def __init__(self, packages: Collection[Package]) -> None:
        super().__init__(packages)
        self.packages = packages


class SharedPaths:
    """The shared paths of a prefix that is being made, of wheels and archives by their canonical URL in `proven`."""

    def __init__(self, transaction: Transaction, placements: Sequence[Placement], proven: Mapping[str, Path]) -> None:
        self.transaction = transaction
        self.proven = proven
        self._placed = {(placement.package.manager, placement.package.name) for placement in placements}
        prefix, plan, self._left = transaction.prefix, transaction.plan, set[str]()
        if not plan.starts_over:  # by the prefix's own notes
            gone = {package.name for package in plan.removes("conda")}
            there = conda_packages(prefix.path)
            self._left.update(path for package in there if package.name in gone for path in package.files)
            self._left.update(wheel_files(prefix, [package.name for package in plan.removes("pip")]))
        self._known_checksums: dict[Package, Mapping[str, Checksum]] = {}

    @cached_property
    def _site_packages(self) -> str:
        return site_packages(self.transaction.wanted, self.transaction.manifests)

    @cached_property
    def _losses(self) -> Lost:
        # Asked for once the archives are unpacked, so that what they bring is known.
        return losses(self.transaction.wanted, self.transaction.manifests, self.proven)

    def _brought(self, package: LockedPackage) -> Brought:
        key = package.manager, package.name
        return self.transaction.manifests.brought(require_sha256(package), key, self._site_packages)

    def require_settled(self) -> None:
        """Raise SharedPathsError if the plan does not make every package that has a shared path."""
        plan = self.transaction.plan
        sharing = {package for (loser, _), winner in self._losses.items() for package in (loser, winner)}
        if not sharing.isdisjoint(self._placed):
            raise SharedPathsError(sharing)
        if plan.starts_over:
            return
        changed = {(package.manager, package.name) for package in plan.install}
        changed |= {(package.manager, package.name) for package in plan.remove}
        stays = (package for package in self.transaction.wanted if (package.manager, package.name) not in changed)
        covered = self._left and any(not self._left.isdisjoint(self._brought(package).paths) for package in stays)
        if covered or not sharing.isdisjoint(changed):
            raise SharedPathsError(sharing)

    def yield_paths(self, package: LockedPackage, unpacked: Path) -> None:
        """Let a conda package bring what it loses to another one under the name that py-rattler gives it. py-rattler
        links packages side by side, and would fail or forget files where a path is a directory in one package and a
        file in another; for the same reason it sees no entries of directories."""
        key = package.manager, package.name
        lost = {path for (loser, path), winner in self._losses.items() if loser == key and winner[0] == "conda"}
        brought = self._brought(package)
        if not lost and not brought.directories:
            return
        listing = unpacked / "info" / "paths.json"
        paths = json.loads(listing.read_bytes())
        paths["paths"] = list(self._kept(paths["paths"], package.name, lost, unpacked))
        listing.write_text(json.dumps(paths))
        if not lost.isdisjoint(brought.scripts):
            link = json.loads((unpacked / "info" / "link.json").read_bytes())
            points = link["noarch"]["entry_points"]
            link["noarch"]["entry_points"] = [
                point for point in points if f"bin/{point.partition('=')[0].strip()}" not in lost
            ]
            (unpacked / "info" / "link.json").write_text(json.dumps(link))

    def _kept(
        self, entries: Sequence[Mapping[str, Any]], name: str, lost: Collection[str], unpacked: Path
    ) -> Iterator[Mapping[str, Any]]:
        is_python = json.loads((unpacked / "info" / "index.json").read_bytes()).get("noarch") == "python"
        for entry in entries:
            path = place_of(entry["_path"], self._site_packages) if is_python else entry["_path"]
            if entry["path_type"] == "directory":
                continue
            if path not in lost:
                yield entry
                continue
            place = kept_at(name, path)
            (unpacked / place).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / entry["_path"]).rename(unpacked / place)
            yield {**entry, "_path": place}

    def make_directories(self, packages: Sequence[LockedPackage]) -> None:
        """Make the directories that conda packages state besides their files, where no file or link is in the way."""
        prefix = self.transaction.prefix.path
        for package in packages:
            for path in self._brought(package).directories:
                above = [prefix / each for each in (path, *parents(path))]
                if not any(each.is_symlink() or (each.exists() and not each.is_dir()) for each in above):
                    (prefix / path).mkdir(parents=True, exist_ok=True)

    def layers(self, wheels: Sequence[LockedPackage]) -> list[list[LockedPackage]]:
        """Wheels in groups to be installed one after the other, so that what loses a path is there before it is won."""
        names = {wheel.name for wheel in wheels}
        after: dict[Package, set[Package]] = {}
        for (loser, path), winner in self._losses.items():
            if loser not in after.get(winner, ()):
                one, other = (self._checksums(package).get(path) for package in (loser, winner))
                if one is None or one != other:
                    after.setdefault(winner, set()).add(loser)
        depth: dict[Package, int] = {}
        groups: list[list[LockedPackage]] = []
        for wheel in self.transaction.wanted:
            if wheel.manager == "pip" and wheel.name in names:
                key = "pip", wheel.name
                depth[key] = max((depth[loser] + 1 for loser in after.get(key, ()) if loser in depth), default=0)
                groups += [[]] * (depth[key] + 1 - len(groups))
                groups[depth[key]] = [*groups[depth[key]], wheel]
        return groups

    def _checksums(self, package: Package) -> Mapping[str, Checksum]:
        # Enough to tell what needs an order; that the right file is there in the end, its sha256 proves.
        if package not in self._known_checksums:
            urls = (wanted.url for wanted in self.transaction.wanted if (wanted.manager, wanted.name) == package)
            wheel = self.proven.get(next(urls, "")) if package[0] == "pip" else None
            found = checksums_of(wheel) if wheel else {}
            self._known_checksums[package] = {
                place_in_prefix(name, self._site_packages): checksum for name, checksum in found.items()
            }
        return self._known_checksums[package]

    def lost_to(self, wheels: Sequence[LockedPackage]) -> list[str]:
        """What has to be out of the way before wheels are installed."""
        names = {("pip", wheel.name) for wheel in wheels}
        return [path for (_, path), winner in self._losses.items() if winner in names]
