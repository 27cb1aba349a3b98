"""Cut a small extract out of a directory of real package records: what some requests are solved with, and no more.

Run by hand when a test needs other packages:

    python tests/support/repodata_extract.py ../shared/repodata tests/data/repodata
    python tests/support/repodata_extract.py ../shared/repodata tests/data/repodata-cuda LOCK ...

The second takes what locks hold, which were made from the whole directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import rattler

# What the tests ask for: platform, channels, match specs, and how old the packages have to be at most.
GLIBC = {"__glibc": "2.31", "__linux": "5.10", "__unix": "0", "__archspec": "1", "__osx": "13.0"}
CUDA = {**GLIBC, "__cuda": "12.1"}
SERVER = ["python=3.9", "flask", "jinja2", "pip"]
MORE = ["gunicorn", "watchdog", "prometheus_client", "tomli", "numpy<2"]
TORCH = ["pytorch=2.3.0", "pytorch-cuda=12.1", *MORE]
PLATFORMS = ("linux-64", "linux-aarch64", "osx-arm64")
FORGE = ["conda-forge"]
REQUESTS: list[tuple[tuple[str, ...], list[str], list[str], dict[str, str]]] = [
    (PLATFORMS, FORGE, [*SERVER, "numpy"], GLIBC),
    (PLATFORMS, FORGE, [*SERVER, "numpy<2"], GLIBC),
    (PLATFORMS, FORGE, ["python=3.9.18", "flask=3.0.3", "click=8.1.7", "werkzeug=3.0.3", "jinja2<3.1.5", "pip"], GLIBC),
    (PLATFORMS, FORGE, ["python=3.9", "flask=2.3", "werkzeug=2.3", "pip"], GLIBC),
    (PLATFORMS, FORGE, [*SERVER, "pytest"], GLIBC),
    (PLATFORMS, FORGE, ["python=3.12", "flask", "pip", "numpy"], GLIBC),
    (("linux-64",), ["pytorch", "nvidia", "conda-forge"], [*SERVER, *TORCH], CUDA),
    (("linux-64",), FORGE, ["python=3.9", "pytorch=2.0.0=cuda118*"], CUDA),
    (("linux-64",), FORGE, ["python=3.9", "pytorch=2.1.2=cpu*"], GLIBC),
]


async def records(root: str, platform: str, channels: list[str], specs: list[str], virtual: dict[str, str]) -> Any:
    build = getattr(rattler, "BuildString", str)
    packages = [
        rattler.GenericVirtualPackage(
            rattler.PackageName(name), rattler.Version(version), build("x86_64" if name == "__archspec" else "0")
        )
        for name, version in virtual.items()
    ]
    return await rattler.solve(
        sources=[f"{root}/{each}" for each in channels],
        specs=[rattler.MatchSpec(each) for each in specs],
        platforms=[platform, "noarch"],
        virtual_packages=packages,
    )


def main() -> None:
    source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    urls = re.findall(r"(?m)^  url: (\S+)", "".join(Path(lock).read_text() for lock in sys.argv[3:]))
    wanted: set[tuple[str, str, str]] = {tuple(each.rsplit("/", 3)[1:]) for each in urls}
    for platforms, channels, specs, virtual in REQUESTS if not urls else ():
        for platform in platforms:
            found = asyncio.run(records(source.as_uri(), platform, channels, specs, virtual))
            wanted |= {tuple(each.url.rsplit("/", 3)[1:]) for each in found}
    for channel in sorted({each[0] for each in wanted}):
        for subdir in sorted({each[1] for each in wanted if each[0] == channel} | {"noarch"}):
            names = {name for other, place, name in wanted if (other, place) == (channel, subdir)}
            write(source / channel / subdir, target / channel / subdir, subdir, names)
    sys.stdout.flush()
    os._exit(0)  # py-rattler may crash while the interpreter shuts down


def write(source: Path, target: Path, subdir: str, names: set[str]) -> None:
    whole = json.loads((source / "repodata.json").read_text())
    sections = []
    for section in ("packages", "packages.conda"):
        kept = sorted((name, record) for name, record in whole.get(section, {}).items() if name in names)
        rows = [f"{json.dumps(name)}: {json.dumps(record, sort_keys=True)}" for name, record in kept]
        sections.append(f"{json.dumps(section)}: {{\n" + ",\n".join(rows) + "}")
    target.mkdir(parents=True, exist_ok=True)
    body = ",\n".join([f'"info": {{"subdir": "{subdir}"}}', *sections, '"removed": []', '"repodata_version": 1'])
    (target / "repodata.json").write_text("{" + body + "}\n")


if __name__ == "__main__":
    main()
