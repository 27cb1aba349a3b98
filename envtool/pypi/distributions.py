"""The Python distributions that conda packages bring, and the empty wheels that represent them while uv chooses.

Source: PyPA specifications, "Recording installed projects".

A name comes from the archive itself where it is at hand (a local channel, the cache), then from the purls of the
record, then from a table of the usual differences; else the distribution is called like the package. No service is
asked. What no name tells is found before an environment is made (`envtool.install.preconditions`).

A stand-in states name, version and, where an extra is asked for, what the extras need: uv asks no index for that name,
chooses no other version and completes nothing.

They are in the METADATA in the archive, which is fetched if need be: an index may have a stranger's package of that
name. The index is asked for that very version only where there is no archive, or no METADATA in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from envtool.artifacts.conda_archive import DAMAGED, open_part, read_info
from envtool.artifacts.download import archive_at_hand, find_archive
from envtool.errors import ArchiveError, EnvtoolError, SolveError
from envtool.fetch.archive_cache import Cache
from envtool.lockfile.pylock import parse_pylock
from envtool.mirrors import mirrors as mirrors_module
from envtool.mirrors.mirrors import Mirrors

if TYPE_CHECKING:
    from envtool.pypi.resolve import Resolution
    from envtool.solve.conda_solver import PackageRecord

_MAX_METADATA_BYTES = 4 << 20
# A path in paths.json or in info/files. Directly below site-packages: what a distribution vendors is nobody else's.
_SITE_PACKAGES = rb'(?:^|["\n])(?:lib/python[0-9.]+t?/|Lib/)?site-packages/'
_DIST_INFO = re.compile(_SITE_PACKAGES + rb'([^/"\n]+?)-([^/"\n-]+)\.dist-info["/\n]')
_EGG_INFO = re.compile(_SITE_PACKAGES + rb'([^/"\n]+?)-([^/"\n-]+)(?:-py[0-9.]+)?\.egg-info["/\n]')


def distributions_in(archive: Path) -> dict[str, str]:
    """The distributions that an archive brings, normalized name to version. Raises ArchiveError if it is not valid."""
    listed = b"\n".join(read_info(archive, ["paths.json", "files"]).values()) + b"\n"
    found = [*_EGG_INFO.findall(listed), *_DIST_INFO.findall(listed)]
    texts = ((name.decode("utf-8", "replace"), version.decode("utf-8", "replace")) for name, version in found)
    return {canonicalize_name(name): version for name, version in texts}


def metadata_in(archive: Path, distribution: str) -> str | None:
    """The METADATA of a distribution that an archive brings, None if it has none. Raises ArchiveError."""
    try:
        with open_part(archive, "pkg") as tar:
            for member in tar:
                found = _DIST_INFO.match(b"\n" + member.name.encode())
                is_metadata = member.name.endswith(".dist-info/METADATA")
                if found and is_metadata and canonicalize_name(found[1].decode("utf-8", "replace")) == distribution:
                    file = tar.extractfile(member)
                    return file.read(_MAX_METADATA_BYTES).decode("utf-8", "replace") if file else None
    except DAMAGED as error:
        raise ArchiveError(f"{archive} is not a valid package archive: {error}") from error
    return None


_TABLE = """
airflow apache-airflow; antlr-python-runtime antlr4-python3-runtime; aesara-base aesara;
apache-beam-with-gcp apache-beam; black-jupyter black; brotli-python brotli; cupy-core cupy; cvxpy-base cvxpy;
cython-blis blis; dask-core dask; docker-py docker; faiss faiss faiss-cpu; faiss-cpu faiss faiss-cpu;
faiss-gpu faiss faiss-gpu; geopandas-base geopandas; gurobi gurobipy; h2o-py h2o; ibis-framework-core ibis-framework;
ignite pytorch-ignite; kedro-with-telemetry kedro; matplotlib-base matplotlib; msgpack-python msgpack;
nbconvert-core nbconvert; numpy-base numpy; opencv opencv-python opencv-python-headless; ortools-python ortools;
py-lief lief; py-mxnet mxnet; py-opencv opencv-python opencv-python-headless; py-xgboost xgboost;
py-xgboost-cpu xgboost; py-xgboost-gpu xgboost; pyarrow-core pyarrow; pyg torch-geometric; pymc-base pymc;
pymol-open-source pymol; pyqt pyqt5; pysoundfile soundfile; pytables tables; pytensor-base pytensor;
python-blosc blosc; python-build build; python-chess chess; python-clang clang;
python-confluent-kafka confluent-kafka; python-duckdb duckdb; python-eccodes eccodes;
python-fastjsonschema fastjsonschema; python-flatbuffers flatbuffers; python-graphviz graphviz; python-hdfs hdfs;
python-igraph igraph python-igraph; python-installer installer; python-isal isal; python-kaleido kaleido;
python-leveldb leveldb; python-libarchive-c libarchive-c; python-lmdb lmdb; python-lz4 lz4; python-neo neo;
python-sounddevice sounddevice; python-symengine symengine; python-tblib tblib; python-tzdata tzdata;
python-wget wget; python-xxhash xxhash; python-zstd zstd; pytorch torch; pytorch-cluster torch-cluster;
pytorch-cpu torch; pytorch-geometric torch-geometric; pytorch-gpu torch; pytorch-scatter torch-scatter;
pytorch-sparse torch-sparse; pytorch-spline-conv torch-spline-conv; qtconsole-base qtconsole; ray-core ray;
ray-default ray; redis-py redis; seaborn-base seaborn; sentencepiece-python sentencepiece;
snakemake-minimal snakemake; spacy-model-en-core-web-lg en-core-web-lg; spacy-model-en-core-web-md en-core-web-md;
spacy-model-en-core-web-sm en-core-web-sm; spacy-model-en-core-web-trf en-core-web-trf; spyder-base spyder;
tensorflow-base tensorflow; tensorflow-cpu tensorflow; tensorflow-gpu tensorflow; torchtriton triton;
torchvision-cpu torchvision; torchvision-gpu torchvision; vtk-base vtk; xgboost-cpu xgboost; xgboost-gpu xgboost
"""
DISTRIBUTION_NAMES: Mapping[str, tuple[str, ...]] = {
    name: tuple(distributions) for name, *distributions in map(str.split, _TABLE.split(";"))
}


def metadata_at(url: str) -> str | None:
    """The METADATA of a wheel by the wheel's URL (PEP 658), None where it cannot be downloaded."""
    from envtool.fetch import client  # slow to import, and most commands ask no index

    for each in mirrors_module.configured().for_url(f"{url}.metadata"):
        try:
            with client.get(each) as body:
                return b"".join(body.chunks).decode("utf-8", "replace")
        except EnvtoolError:
            continue
    return None


_PURL = re.compile(r"pkg:pypi/([^@?#]+)")
_END_OF_NAME = re.compile(r"[\s=<>!~\[]")
_VERSION_START = re.compile(r"\d+(?:\.\d+)*")
_READERS = 4


class Provided(NamedTuple):
    """A Python distribution that a conda package brings, with its version as PEP 440 writes it."""

    name: str
    version: str
    record: PackageRecord


def provided_distributions(records: Sequence[PackageRecord], cache: Cache) -> dict[str, Provided]:
    """The Python distributions that conda packages bring, by normalized name; cached archives are read for that."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="archive") as pool:
        own = list(pool.map(lambda record: _own_distributions(record, cache), records))
    ranked = [
        (rank, Provided(name, pep440(version), record))
        for record, in_archive in zip(records, own)
        for rank, name, version in (*_by_name(record), *((3, *each) for each in in_archive.items()))
    ]
    # Of two packages that bring one distribution (matplotlib and matplotlib-base), the surer source tells its version.
    return {each.name: each for _, each in sorted(ranked, key=lambda ranked_one: ranked_one[0])}


def distribution_names(conda_name: str) -> tuple[str, ...]:
    """The normalized names that a conda package has among Python distributions, the usual one first."""
    name = canonicalize_name(conda_name)
    return DISTRIBUTION_NAMES.get(name, (name,))


def pep440(version: str) -> str:
    """A version of conda's as PEP 440 writes it; else the numbers it starts with (`2024a`)."""
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version))
    except InvalidVersion:
        start = _VERSION_START.match(version)
        return start[0] if start else "0"


def _by_name(record: PackageRecord) -> Iterator[tuple[int, str, str]]:
    names = [canonicalize_name(unquote(found[1])) for purl in record.purls if (found := _PURL.match(purl))]
    if names:
        yield from ((2, name, record.version) for name in names)
    elif any(_END_OF_NAME.split(spec, maxsplit=1)[0] in ("python", "python_abi") for spec in record.depends):
        is_listed = canonicalize_name(record.name) in DISTRIBUTION_NAMES
        yield from ((int(is_listed), name, record.version) for name in distribution_names(record.name))


def _own_distributions(record: PackageRecord, cache: Cache) -> Mapping[str, str]:
    archive = archive_at_hand(record, cache)
    try:
        return distributions_in(archive) if archive else {}
    except ArchiveError:
        return {}  # told by whoever needs the archive


_WHEEL = "Wheel-Version: 1.0\nGenerator: envtool\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def stand_in(provided: Provided, extras: str, directory: Path) -> Path:
    """Write the stand-in of a distribution, unless it is there; its path states its content, so uv may remember it."""
    metadata = f"Metadata-Version: 2.1\nName: {provided.name}\nVersion: {provided.version}\n{extras}"
    stem = f"{provided.name.replace('-', '_')}-{provided.version}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in (("METADATA", metadata), ("WHEEL", _WHEEL), ("RECORD", "")):
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
    content = buffer.getvalue()
    path = directory / hashlib.sha256(metadata.encode()).hexdigest()[:16] / f"{stem}-py3-none-any.whl"
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{id(content)}.tmp")
        temporary.write_bytes(content)  # not synced: one that a crash spoils has another size
        temporary.replace(path)
    return path


def extras_in(metadata: str) -> str:
    """The lines of a METADATA (PyPA core metadata) that are about extras."""
    headers = HeaderParser().parsestr(metadata)
    lines = [f"Provides-Extra: {each}" for each in headers.get_all("Provides-Extra", [])]
    needs = (" ".join(str(each).split()) for each in headers.get_all("Requires-Dist", []))
    lines += [f"Requires-Dist: {need}" for need in needs if "extra" in need.partition(";")[2]]
    return "".join(f"{line}\n" for line in lines)


def extras_of(provided: Provided, resolution: Resolution, cache: Cache, mirrors: Mirrors) -> str:
    """The lines about extras of a distribution that conda brings. Raises SolveError if none can be found."""
    archive = find_archive(provided.record, cache, mirrors)
    metadata = None
    with contextlib.suppress(EnvtoolError):
        metadata = (metadata_in(archive, provided.name) or None) if archive else None
    with contextlib.suppress(EnvtoolError):
        if not metadata:
            requirement = f"{provided.name}=={provided.version}"
            found = parse_pylock(resolution.pylock([requirement], ["--no-deps"]))
            metadata = metadata_at(found[0].url) if found else None
    if metadata is None:
        raise SolveError(
            f"{provided.name} {provided.version} is brought by the conda package {provided.record.name}, "
            "and what its extras need cannot be found: neither in the archive nor in the index",
            "write what the extra needs into the pip section, and leave the extra out",
        )
    return extras_in(metadata)
