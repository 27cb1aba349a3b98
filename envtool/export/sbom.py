"""A CycloneDX bill of materials: what is in an environment, with hashes, licences and what needs what.

The same lock and the same facts give the same bytes: the serial number follows from the content, and no clock is read.
Source: CycloneDX 1.7; purl-spec, types `conda` and `pypi`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envtool.export.found import found_packages, lock_of, metadata_of
from envtool.fetch.credentials import strip
from envtool.inspect_lock.graph import Graph, graph
from envtool.inspect_lock.package_metadata import PackageMetadata, look_up
from envtool.lockfile.conda_lock_v1 import LockedPackage, Lockfile
from envtool.lockfile.model import is_repository, parse_repository

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

SPECIFICATIONS = ("1.7", "1.6", "1.5")


@dataclass(frozen=True)
class BomRequest:
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
    request = BomRequest(lock_of(found), "", ("main",), name, specification)
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
    bom.metadata.tools.components.add(
        Component(type=ComponentType.APPLICATION, name="envtool", version=version("envserve"))
    )
    components = {key: _component(each, facts.get(each.url, PackageMetadata())) for key, each in graph.packages.items()}
    for component in components.values():
        bom.components.add(component)
    for key, component in components.items():
        bom.register_dependency(component, [components[edge.target] for edge in graph.edges[key]])
    bom.register_dependency(root, [components[key] for key in graph.requested])
    schema = SchemaVersion.from_version(request.specification)
    return _deterministic(
        json.loads(make_outputter(bom, OutputFormat.JSON, schema).output_as_string()), request.platform
    )


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
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=str(url),
        purl=url,
        hashes=stated,
        licenses=[LicenseFactory().make_from_string(facts.license)] if facts.license else None,
        properties=properties,
        external_references=origin,
    )


def _purl(package: LockedPackage) -> PackageURL:
    from packageurl import PackageURL

    if is_repository(package.url):
        # Source: purl-spec, qualifier `vcs_url`.
        return PackageURL(
            "pypi", None, package.name, package.version, {"vcs_url": parse_repository(package.url).locator}
        )
    if package.manager == "pip":
        named = {"file_name": package.file_name} if package.url else {}
        return PackageURL("pypi", None, package.name, package.version, named)
    channel, subdir, file_name = package.url.rsplit("/", 2)
    qualifiers = {
        "build": package.build_string or "",
        "channel": channel.rpartition("/")[2],
        "subdir": subdir,
        "type": "conda" if file_name.endswith(".conda") else "tar.bz2",
    }
    return PackageURL("conda", None, package.name, package.version, qualifiers)


def _deterministic(bom: dict[str, Any], platform: str) -> str:
    # The library puts in the time and a random number, neither of which says anything of the environment.
    bom["metadata"].pop("timestamp", None)
    bom.pop("serialNumber", None)
    if platform:
        bom["metadata"].setdefault("properties", []).append({"name": "envtool:platform", "value": platform})
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"
    return json.dumps(bom, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
