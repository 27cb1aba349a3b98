"""The checks: each a function of facts and needs that yields findings. Nothing here looks at the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from envtool.console import size
from envtool.doctor.machine_facts import Finding, MachineFacts, Needs, Place, Severity
from envtool.install import link_scripts as scripts
from envtool.install.cuda import Fit, judge, numbers
from envtool.prefix.prefix import LONGEST_PATH_BYTES, find_unfit

_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
# Keys of .condarc that change what conda does to an environment of ours, or say that something is wrong.
_CONDARC = {
    "ssl_verify": ("false", _WARNING, "conda checks no certificates", "remove ssl_verify; name your CA file instead"),
    "offline": ("true", _NOTE, "conda itself asks no channel", "envtool does not read this; see create --offline"),
    "pip_interop_enabled": (
        "true", _WARNING, "conda may replace wheels of an environment by conda packages",
        "remove it, or make environments with envtool create --frozen",
    ),
    "always_yes": (
        "true", _NOTE, "conda changes an environment without asking", "envtool create --frozen keeps it from doing so"
    ),
    "auto_update_conda": ("true", _NOTE, "conda updates itself", "nothing of envtool depends on it"),
}  # fmt: skip
_PYTHON = {
    "PYTHONPATH": "Python looks there first, in every environment",
    "PYTHONHOME": "no Python but that one finds its own library",
    "PYTHONSTARTUP": "it runs in every interactive Python",
    "LD_LIBRARY_PATH": "programs take the libraries there instead of the environment's own",
    "LD_PRELOAD": "it is loaded into every program",
    "PIP_TARGET": "pip installs there instead of into an environment",
    "PIP_PREFIX": "pip installs there instead of into an environment",
    "PIP_USER": "pip installs for the user instead of into an environment",
}
_CUDA_HOMES = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT")
_SHOWN = 4
_DROPPED_BY_RUN = ("PYTHONPATH", "PYTHONHOME")


def check_conda(facts: MachineFacts) -> Iterator[Finding]:
    """Settings of conda that interfere."""
    for path, keys in facts.condarc.items():
        for key, (value, severity, what, hint) in _CONDARC.items():
            if keys.get(key, "").lower() == value:
                yield Finding(severity, "conda", f"{path} has {key}: {value}: {what}", hint)
        if "channel_alias" in keys:
            message = f"{path} has channel_alias: conda means other channels by the same names"
            yield Finding(_NOTE, "conda", message, "locks of envtool name channels by their whole URL")


def check_python(facts: MachineFacts) -> Iterator[Finding]:
    """Settings of Python, pip and the loader that reach into every environment."""
    for name, what in _PYTHON.items():
        if facts.environ.get(name):
            helped = "envtool run takes it away; unset it for activated shells" if name in _DROPPED_BY_RUN else ""
            yield Finding(_WARNING, "python", f"{name} is set: {what}", helped or f"unset {name}")
    if not facts.environ.get("PYTHONNOUSERSITE"):
        for path in facts.user_packages:
            message = f"{path} has packages, which every Python of that version sees before those of an environment"
            yield Finding(_WARNING, "python", message, "export PYTHONNOUSERSITE=1, or remove them")


def check_cuda(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    """A CUDA of the system that takes the place of the environment's."""
    for path, libraries in facts.shadows.items():
        if path.name == "stubs":
            message = f"LD_LIBRARY_PATH has {path}, whose libcuda.so is a stub that finds no GPU"
            yield Finding(_ERROR, "cuda", message, f"take {path} out of LD_LIBRARY_PATH")
        elif names := [library for library in libraries if needs.cuda and not library.startswith("libcuda.so")]:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"{', '.join(names[:_SHOWN])}{more}"
            message = f"LD_LIBRARY_PATH has {path}, whose {what} are loaded instead of the environment's"
            yield Finding(_WARNING, "cuda", message, "unset LD_LIBRARY_PATH; an environment finds its libraries itself")
    for name in _CUDA_HOMES:
        place = facts.environ.get(name)
        found = re.search(r"(\d+)\.(\d+)$", facts.links.get(place, place).rstrip("/")) if place else None
        if needs.cuda and found and found[0] != needs.cuda:
            message = f"{name} is {place}, CUDA {found[0]}, and the lock is built for CUDA {needs.cuda}"
            hint = f"unset {name}: what is compiled for the environment would be built for the other one"
            yield Finding(_WARNING, "cuda", message, hint)


_FEW_FILES = 200_000
_FEW_INSTANCES = 16
_FEW_WATCHES = 8192
_SKEW_S, _BAD_SKEW_S = 60, 300
_NAME_BYTES = 20
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


def check(facts: MachineFacts, needs: Needs) -> list[Finding]:
    """Everything that is found, the worst first."""
    hint = "install what is missing, or declare what this machine has in environment.yml and lock again"
    found = [
        *(Finding(_ERROR, name.strip("_"), sentence, hint) for name, sentence in needs.lacks),
        *_driver(facts, needs), *check_cuda(facts, needs), *_glibc(facts, needs),
        *_places(facts, needs), *_inotify(facts), *_locale(facts), *_certificates(facts), *_proxies(facts),
        *_reach(facts, needs), *_clock(facts), *check_conda(facts), *check_python(facts),
    ]  # fmt: skip
    return sorted(found, key=lambda each: list(Severity).index(each.severity))


def link_scripts(paths: Mapping[str, Iterable[str]], allowed: Collection[str]) -> list[Finding]:
    """The packages that want programs run when they are linked, those whose scripts the lock allows to run too."""
    found = {name: sorted(filter(scripts.is_link_script, each)) for name, each in paths.items()}
    skipped, run = scripts.split(found, allowed)
    hint = "read them; run-link-scripts in environment.yml lets create run them, see docs/reference/archives.md"
    notes = [Finding(_NOTE, "link-scripts", scripts.sentence(name, each), hint) for name, each in skipped.items()]
    hint = "read them before you create; they can write to the environment alone where the kernel has Landlock"
    return notes + [Finding(_NOTE, "link-scripts", f"create runs {each}, as the lock allows", hint) for each in run]


def _driver(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    if needs.cuda is None:
        if needs.package_count and (facts.gpu.has_device or facts.gpu.driver):
            hint = "lock a build for CUDA if it shall be used; envtool init --list shows templates"
            yield Finding(_NOTE, "driver", "nothing in the lock uses CUDA, and this machine has a GPU of NVIDIA", hint)
        return
    verdict, sentence, hint = judge(needs.cuda, facts.gpu)
    if sentence:
        yield Finding(_ERROR if verdict is Fit.TOO_OLD else _WARNING, "driver", sentence, hint)


def _glibc(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    has = facts.virtual_packages.get("__glibc", "").split(" ")[0]
    if needs.glibc and has and numbers(has) < numbers(needs.glibc):
        message = f"a wheel of the lock needs glibc {needs.glibc}; this machine has {has}"
        yield Finding(_ERROR, "glibc", message, "use a newer Linux, or declare this glibc and lock again")


def _places(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    for place in facts.places:
        if not place.is_writable:
            message = f"{place.path} ({place.role}) cannot be written"
            yield Finding(_ERROR, "permissions", message, "make it yours, or set ENVTOOL_HOME or ENVTOOL_CACHE_DIR")
        elif place.mode is not None and place.mode & 0o002:
            message = f"{place.path} ({place.role}) can be written by everybody: they decide what runs"
            yield Finding(_WARNING, "permissions", message, f"chmod o-w {place.path}; share it with a group instead")
        yield from _room(place, facts, needs)
        if place.role == "environments":
            yield from _path(place)


def _room(place: Place, facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    wanted = needs.missing_bytes if place.role == "cache" else needs.unpacked_bytes
    # Where both are on one disk, the archives are there before the environment is.
    if place.role != "cache" and any(each.role == "cache" and each.device == place.device for each in facts.places):
        wanted += needs.missing_bytes
    if wanted > place.free_bytes:
        severity = _ERROR if place.role == "cache" else _WARNING
        more = f" ({needs.unknown} archives of unknown size not counted)" if needs.unknown else ""
        message = f"about {size(wanted)} are needed{more}, {size(place.free_bytes)} are free"
        hint = "make room, or choose another disk"
        yield Finding(severity, "disk", f"{place.path} ({place.role}): {message}", hint)
    if place.free_files is not None and place.free_files < _FEW_FILES:
        message = f"{place.path} ({place.role}): its disk takes {place.free_files} more files, however small"
        yield Finding(_WARNING, "disk", message, "an environment with torch has about 50000; remove old ones")


def _path(place: Place) -> Iterator[Finding]:
    path = place.path
    if unfit := find_unfit(path):
        yield Finding(_ERROR, "path", unfit, "set ENVTOOL_HOME to another directory")
    elif len(os.fsencode(path)) + _NAME_BYTES > LONGEST_PATH_BYTES:
        message = f"{path} is so long that little is left for the name of an environment"
        yield Finding(_WARNING, "path", message, "set ENVTOOL_HOME to a shorter path")


def _inotify(facts: MachineFacts) -> Iterator[Finding]:
    limits = facts.inotify
    if limits is None:
        return
    left = limits.max_instances - limits.used_instances
    hint = "sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288; serve polls without them"
    if left < _FEW_INSTANCES:
        message = f"{left} of {limits.max_instances} watchers of files are left; serve takes one for each worker"
        yield Finding(_WARNING, "inotify", message, hint)
    if limits.max_watches < _FEW_WATCHES:
        yield Finding(_WARNING, "inotify", f"only {limits.max_watches} directories can be watched", hint)


def _locale(facts: MachineFacts) -> Iterator[Finding]:
    hint = "export LC_ALL=C.UTF-8"
    if facts.encoding.lower().replace("-", "") != "utf8":
        message = f"file names are read as {facts.encoding}; packages have names in UTF-8"
        yield Finding(_ERROR, "locale", message, hint)
    if not facts.has_locale:
        asked = facts.environ.get("LC_ALL") or facts.environ.get("LANG") or ""
        yield Finding(_WARNING, "locale", f"locale {asked!r} not found", hint)


def _certificates(facts: MachineFacts) -> Iterator[Finding]:
    for name in _CERTIFICATES:
        path = facts.environ.get(name)
        if path and not facts.files.get(path, True):
            message = f"{name} names {path}, which was not found: every https connection fails"
            yield Finding(_ERROR, "certificates", message, f"unset {name}, or install the certificates there")


def _proxies(facts: MachineFacts) -> Iterator[Finding]:
    for name, trouble in facts.proxies.items():
        if trouble is not None:
            message = f"the proxy of {name} cannot be used: {trouble}"
            yield Finding(_ERROR, "proxy", message, f"correct {name}, or unset it; it is a URL: http://host:port")
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        low, high = facts.environ.get(name), facts.environ.get(name.upper())
        if low and high and low != high:
            message = f"{name} and {name.upper()} differ; programs do not agree on which of them counts"
            yield Finding(_WARNING, "proxy", message, f"set both to the same, or unset {name.upper()}")
    exceptions = facts.environ.get("no_proxy") or facts.environ.get("NO_PROXY") or ""
    is_local = {"*", "127.0.0.1", "localhost"} & {each.strip() for each in exceptions.split(",")}
    if facts.proxies and not is_local:
        message = "no_proxy has no 127.0.0.1: requests to this machine's own servers go to the proxy"
        yield Finding(_WARNING, "proxy", message, "export no_proxy=localhost,127.0.0.1")


def _reach(facts: MachineFacts, needs: Needs) -> Iterator[Finding]:
    for each in facts.reach or ():
        if each.answering:
            continue
        reasons = "; ".join(f"{name}: {reason}" for name, reason in each.reasons.items())
        message = f"{each.channel} cannot be downloaded from any of {each.places} places ({reasons})"
        if needs.is_cached:
            hint = "envtool create takes everything from the cache; locking anew would fail"
            yield Finding(_WARNING, "network", message, hint)
        else:
            hint = "envtool mirror list shows mirrors, envtool mirror use takes one; or carry a bundle to this machine"
            yield Finding(_ERROR, "network", message, hint)


def _clock(facts: MachineFacts) -> Iterator[Finding]:
    server, skew_s = facts.clock or ("", 0.0)
    if abs(skew_s) < _SKEW_S:
        return
    way = "ahead of" if skew_s > 0 else "behind"
    host = urlsplit(server).netloc or server
    message = f"this machine's clock is {abs(skew_s):.0f} s {way} that of {host}"
    severity = _ERROR if abs(skew_s) >= _BAD_SKEW_S else _WARNING
    hint = "timedatectl set-ntp true; certificates, signatures and tokens are valid at certain times only"
    yield Finding(severity, "clock", message, hint)
