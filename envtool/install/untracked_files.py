"""Files of a prefix that no package of it brought: somebody put them there, and a create that goes on removes them.

By the notes of the prefix alone, so that a dry run can tell; what is in the files is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from packaging.utils import canonicalize_name

from envtool.prefix.bytecode import source_of
from envtool.prefix.installed_packages import CondaPackage, recorded_files
from envtool.prefix.prefix import Installed, Prefix
from envtool.prefix.scan import walk


def extra_files(prefix: Prefix, conda: Sequence[CondaPackage], installed: Sequence[Installed]) -> tuple[str, ...]:
    """The files that nothing brought and that are no byte-code of something brought, sorted."""
    brought = {path for package in conda for path in package.files}
    # pip may have installed others, whose files are as extra as any.
    brought.update(wheel_files(prefix, [each.name for each in installed if each.manager == "pip"]))
    names = (name for name, _ in walk(str(prefix.path)))
    return tuple(sorted(name for name in names if name not in brought and source_of(name) not in brought))


def wheel_files(prefix: Prefix, names: Sequence[str]) -> Iterator[str]:
    """The files of wheels of a prefix, by their RECORD."""
    wanted = {canonicalize_name(each) for each in names}
    site_packages = prefix.site_packages()
    for record in (prefix.path / site_packages).glob("*.dist-info/RECORD"):
        if canonicalize_name(record.parent.name.partition("-")[0]) in wanted:
            yield from recorded_files(prefix.path, f"{site_packages}/{record.parent.name}/RECORD")
