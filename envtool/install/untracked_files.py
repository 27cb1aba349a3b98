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
    """The files that nothing brought and that are no byte-code of something brought, sorted.

    Args:
        prefix: The prefix.
        conda: Its conda packages.
        installed: What its receipt notes.
    """
    brought = {path for package in conda for path in package.files}
    brought.update(_of_wheels(prefix, installed))
    names = (name for name, _ in walk(str(prefix.path)))
    return tuple(sorted(name for name in names if name not in brought and source_of(name) not in brought))


def _of_wheels(prefix: Prefix, installed: Sequence[Installed]) -> Iterator[str]:
    # pip may have installed others, whose files are as extra as any.
    names = {canonicalize_name(each.name) for each in installed if each.manager == "pip"}
    site_packages = prefix.site_packages()
    for record in (prefix.path / site_packages).glob("*.dist-info/RECORD"):
        if canonicalize_name(record.parent.name.partition("-")[0]) in names:
            yield from recorded_files(prefix.path, f"{site_packages}/{record.parent.name}/RECORD")
