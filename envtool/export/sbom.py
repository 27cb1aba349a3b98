"""A CycloneDX bill of materials: what is in an environment, with hashes, licences and what needs what. The same lock
gives the same bytes: no clock is read. Source: CycloneDX 1.7; purl-spec, types `conda` and `pypi`."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envtool.errors import PrefixError
from envtool.fetch.credentials import strip
from envtool.inspect_lock.graph import Graph, graph
from envtool.inspect_lock.package_metadata import PackageMetadata, look_up
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.lockfile.model import is_repository, parse_repository
from envtool.wheels.reader import known_license, license_of

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

SPECIFICATIONS = ("1.7", "1.6", "1.5")


class BomRequest(NamedTuple):
    """What a bill of materials is asked for (`specification`: the version of CycloneDX)."""

    lockfile: Lockfile
    platform: str
    categories: Sequence[str]
    name: str
    specification: str = SPECIFICATIONS[0]


def bill_of_materials(request: BomRequest, *, is_offline: bool) -> str:
    """The bill of materials of one platform of a lock, as JSON."""
    whole = graph(request.lockfile, request.platform, request.categories)
    return cyclonedx(request, whole, look_up(list(whole.packages.values()), is_offline=is_offline))


def environment_bom(request: BomRequest, prefix: Path) -> str:
    """The bill of materials of an environment of a lock, with the sizes and licences that are noted in it."""
    known = metadata_of(found_packages(prefix), request.lockfile.packages)
    return cyclonedx(request, graph(request.lockfile, request.platform, request.categories), known)


def prefix_bom(prefix: Path, name: str, specification: str) -> str:
    """The bill of materials of a prefix as it is found, whatever made it."""
    found = found_packages(prefix)
    lockfile = Lockfile(tuple(package for package, _ in found), (), ("",), (), {})  # its platform is empty
    request = BomRequest(lockfile, "", ("main",), name, specification)
    return cyclonedx(request, graph(request.lockfile, "", ("main",)), metadata_of(found, request.lockfile.packages))


def cyclonedx(request: BomRequest, graph: Graph, facts: Mapping[str, PackageMetadata]) -> str:
    """The bill of materials of one platform, as JSON."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom = Bom()
    root = Component(type=ComponentType.APPLICATION, name=request.name, bom_ref=f"environment:{request.name}")
    bom.metadata.component = root
    tool = Component(type=ComponentType.APPLICATION, name="envtool", version=version("envserve"))
    bom.metadata.tools.components.add(tool)
    components = {key: _component(each, facts.get(each.url, PackageMetadata())) for key, each in graph.packages.items()}
    for component in components.values():
        bom.components.add(component)
    for key, component in components.items():
        bom.register_dependency(component, [components[needed] for needed in graph.edges[key]])
    bom.register_dependency(root, [components[key] for key in graph.requested])
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.from_version(request.specification))
    stated = json.loads(outputter.output_as_string())
    # The library puts in the time and a random number, neither of which says anything of the environment.
    stated["metadata"].pop("timestamp", None)
    stated.pop("serialNumber", None)
    if request.platform:
        platform = {"name": "envtool:platform", "value": request.platform}
        stated["metadata"].setdefault("properties", []).append(platform)
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    stated["serialNumber"] = f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"
    return json.dumps(stated, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _component(package: LockedPackage, facts: PackageMetadata) -> Component:
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
    from cyclonedx.model.component import Component, ComponentType

    hashes = [(HashAlgorithm.SHA_256, package.sha256), (HashAlgorithm.MD5, package.md5)]
    stated = [HashType(alg=algorithm, content=digits) for algorithm, digits in hashes if digits]
    properties = [Property(name="envtool:category", value=package.category)]
    if facts.size_bytes is not None:
        properties.append(Property(name="envtool:size_bytes", value=str(facts.size_bytes)))
    url = _purl(package)
    is_commit = is_repository(package.url)
    origin = [] if not package.url else [ExternalReference(
        type=ExternalReferenceType.VCS if is_commit else ExternalReferenceType.DISTRIBUTION,
        url=XsUri(parse_repository(package.url).locator if is_commit else strip(package.url)),
        hashes=() if is_commit else stated,
    )]  # fmt: skip
    return Component(
        type=ComponentType.LIBRARY, name=package.name, version=package.version, bom_ref=str(url), purl=url,
        hashes=stated, licenses=[LicenseFactory().make_from_string(facts.license)] if facts.license else None,
        properties=properties, external_references=origin,
    )  # fmt: skip


def _purl(package: LockedPackage) -> PackageURL:
    from packageurl import PackageURL

    if is_repository(package.url):
        source = {"vcs_url": parse_repository(package.url).locator}  # source: purl-spec
        return PackageURL("pypi", None, package.name, package.version, source)
    if package.manager == "pip":
        named = {"file_name": package.file_name} if package.url else {}
        return PackageURL("pypi", None, package.name, package.version, named)
    channel, subdir, file_name = package.url.rsplit("/", 2)
    kind = "conda" if file_name.endswith(".conda") else "tar.bz2"
    channel = channel.rpartition("/")[2]
    qualifiers = {"build": package.build_string or "", "channel": channel, "subdir": subdir, "type": kind}
    return PackageURL("conda", None, package.name, package.version, qualifiers)


Found = tuple[LockedPackage, PackageMetadata]


def found_packages(prefix: Path) -> list[Found]:
    """The conda packages of a prefix, and distributions that none of them brings. Raises PrefixError."""
    if not (prefix / "conda-meta").is_dir():
        raise PrefixError(f"{prefix} has no conda-meta", "name a conda environment")
    found, brought = [], set()
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            found.append(_conda(record))
            brought.update(record["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise PrefixError(f"{path} is damaged: {error!r}") from error
    for path in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/METADATA")):
        if str(path.relative_to(prefix)) not in brought:
            text = path.read_text(encoding="utf-8", errors="replace")
            headers = HeaderParser().parsestr(text)
            needed = dict(_needed(headers.get_all("Requires-Dist", [])))
            name, version = canonicalize_name(str(headers["Name"])), str(headers["Version"])
            package = LockedPackage("pip", name, version, "", "", None, None, needed)
            found.append((package, PackageMetadata(license=license_of(text))))
    return found


def metadata_of(found: list[Found], packages: tuple[LockedPackage, ...]) -> Mapping[str, PackageMetadata]:
    """What is noted in a prefix of the packages of a lock, by URL."""
    noted = {(package.manager, package.name): metadata for package, metadata in found}
    return {each.url: noted.get((each.manager, each.name), PackageMetadata()) for each in packages}


def _conda(record: Mapping[str, Any]) -> Found:
    needed = dict((*each.split(), "*")[:2] for each in record.get("depends", ()))
    package = LockedPackage(
        "conda", record["name"], record["version"], "", record["url"], record.get("sha256"), record.get("md5"), needed,
        build=record["build"], size_bytes=record.get("size"),
    )  # fmt: skip
    return package, PackageMetadata(record.get("size"), known_license(record.get("license")))


def _needed(lines: list[Any]) -> Iterator[tuple[str, str]]:
    for line in lines:
        try:
            each = Requirement(str(line))
        except InvalidRequirement:
            continue  # older tools wrote what no standard reads
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield canonicalize_name(each.name), str(each.specifier) or "*"
