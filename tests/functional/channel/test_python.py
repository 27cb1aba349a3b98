"""The CPython of the channel, installed by py-rattler into two directories and run for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from envtool.channel.python_recipe import cpython

CLEAN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "TERM": "xterm"}


def run(prefix: Path, *argv: str, **env: str) -> str:
    # Without the variables of the machine that tests run on: no PYTHONPATH, no LD_LIBRARY_PATH.
    done = subprocess.run([*argv], env={**CLEAN, **env}, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(prefix: Path, code: str, **env: str) -> Any:
    return json.loads(run(prefix, str(prefix / "bin/python"), "-c", f"import json\n{code}", **env))


def test_it_lies_where_conda_has_it(prefix: Path) -> None:
    facts = python(
        prefix,
        "import sys, sysconfig, site\n"
        "print(json.dumps([sys.prefix, sys.base_prefix, sys.path, sysconfig.get_paths(), site.getsitepackages(),"
        " sys.version_info[:3], sys.implementation.cache_tag, sysconfig.get_config_var('EXT_SUFFIX')]))",
    )
    prefix_, base, path, paths, site, version, tag, suffix = facts
    lib = f"{prefix}/lib/python3.9"
    assert prefix_ == base == str(prefix)
    assert path == ["", f"{prefix}/lib/python39.zip", lib, f"{lib}/lib-dynload", f"{lib}/site-packages"]
    assert site == [f"{lib}/site-packages"]
    assert (version, tag, suffix) == ([3, 9, 2], "cpython-39", ".cpython-39-x86_64-linux-gnu.so")
    assert paths["purelib"] == paths["platlib"] == f"{lib}/site-packages"
    assert paths["scripts"] == f"{prefix}/bin"
    assert all(value.startswith(str(prefix)) for value in paths.values()), paths
    for name in ("python", "python3", "python3.9"):
        assert run(prefix, str(prefix / "bin" / name), "-V") == "Python 3.9.2\n"


def test_every_module_of_the_standard_library_is_imported_from_the_prefix(prefix: Path) -> None:
    code = """
import glob, importlib, os, pkgutil, sys, sysconfig
standard = sysconfig.get_path("stdlib")
names = [os.path.basename(path).split(".")[0] for path in glob.glob(standard + "/lib-dynload/*.so")]
names += [module.name for module in pkgutil.iter_modules([standard]) if module.name not in ("antigravity", "this")]
failed = {}
for name in names + ["distutils.command.build_ext", "multiprocessing.shared_memory", "lib2to3"]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
outside = [file for file in files if file and not file.startswith(sys.prefix)]
mapped = sorted({line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if ".so" in line})
print(json.dumps([len(names), failed, outside, mapped]))
"""
    count, failed, outside, mapped = python(prefix, code)
    assert count > 220
    # Debian packages these two apart, and we leave them out.
    assert failed == {"turtle": "No module named 'tkinter'", "lib2to3": "No module named 'lib2to3'"}
    assert outside == []
    foreign = [path for path in mapped if not path.startswith(str(prefix)) and not is_glibc(path)]
    assert foreign == []


def is_glibc(path: str) -> bool:
    name = Path(path).name
    return name in cpython.GLIBC or re.fullmatch(r"(?:ld|lib[a-z_]+)-2\.\d+\.so", name) is not None


def test_every_library_resolves_inside_of_the_prefix_or_in_glibc(prefix: Path) -> None:
    files = [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]
    binaries = [path for path in files if path.open("rb").read(4) == b"\x7fELF"]
    assert len(binaries) > 50
    for path in binaries:
        for line in run(prefix, "ldd", str(path)).splitlines():
            name, _, target = line.strip().partition(" => ")
            if target and not is_glibc(name):
                assert os.path.realpath(target.split(" (")[0]).startswith(os.path.realpath(prefix)), line


def test_it_asks_for_no_newer_glibc_than_it_says(prefix: Path) -> None:
    newest = (0, 0)
    for path in [prefix / "bin/python3.9", *prefix.glob("lib/*.so*"), *prefix.glob("lib/python3.9/lib-dynload/*.so")]:
        versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())
        newest = max([newest, *((int(major), int(minor)) for major, minor in versions)])
    assert newest == (2, 29)


def test_nothing_names_the_machine_that_built_it_or_debians_python(prefix: Path, checkout: Any) -> None:
    wrong = (b"/usr/lib/python3", b"envtool_prefix_placeholder", os.fsencode(checkout.root), b"/tmp/envtool-")
    found = {}
    for path in prefix.rglob("*"):
        # The placeholder's own definition is no use of it; conda-meta says where packages came from.
        if not path.is_file() or path.name == "conda_package.py" or "conda-meta" in path.parts:
            continue
        content = path.read_bytes()
        found.update({str(path.relative_to(prefix)): text for text in wrong if text in content})
    # pip's word on Debian's own layout; it asks the interpreter.
    assert found == {"lib/python3.9/site-packages/pip/_internal/locations/__init__.py": b"/usr/lib/python3"}
    assert list(prefix.rglob("*dist-packages*")) == []
    variables = python(prefix, "import sysconfig\nprint(json.dumps(sysconfig.get_config_vars()))")
    assert variables["LIBDIR"] == f"{prefix}/lib"
    assert variables["TZPATH"].startswith("/usr/share/zoneinfo:")


def test_it_works(prefix: Path) -> None:
    code = """
import bz2, ctypes, curses, decimal, hashlib, lzma, readline, sqlite3, ssl, sys, tempfile, uuid, zlib, zoneinfo
import concurrent.futures, multiprocessing, socket, subprocess
curses.setupterm("xterm")
data = b"data" * 1000
made = sqlite3.connect(":memory:").execute("select json_extract('{\\"a\\": 7}', '$.a')").fetchone()[0]
pairs = [bz2.decompress(bz2.compress(data)) == data, lzma.decompress(lzma.compress(data)) == data,
         zlib.decompress(zlib.compress(data)) == data]
libc = ctypes.CDLL(None)
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda value: value + 1)
with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    forked = pool.submit(pow, 2, 10).result()
child = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout
print(json.dumps([made, pairs, libc.abs(-5), callback(6), forked, child, str(decimal.Decimal(1) / 3)[:6],
    hashlib.blake2b(b"").hexdigest()[:4], hashlib.new("sha512_256", b"").hexdigest()[:4],
    len(hashlib.scrypt(b"a", salt=b"b", n=2, r=1, p=1)) == 64,
    uuid.uuid1().version, len(uuid.uuid4().hex), curses.tigetnum("colors") >= 8,
    str(zoneinfo.ZoneInfo("Asia/Shanghai")) if zoneinfo.available_timezones() else "none", ssl.OPENSSL_VERSION[:12]]))
"""
    found = python(prefix, code)
    assert found[:6] == [7, [True] * 3, 5, 7, 1024, "1\n"]
    assert found[6:13] == ["0.3333", "786a", "c672", True, 1, 32, True]
    assert found[13] in ("Asia/Shanghai", "none")
    assert found[14] == "OpenSSL 1.1."


def test_certificates_are_the_machines_or_those_that_ssl_cert_file_names(prefix: Path) -> None:
    code = """
import os, ssl
paths = ssl.get_default_verify_paths()
print(json.dumps([os.path.normpath(paths.openssl_cafile), os.path.normpath(paths.openssl_capath),
                  ssl.create_default_context().cert_store_stats()["x509_ca"]]))
"""
    cafile, capath, count = python(prefix, code)
    assert (cafile, capath) == ("/etc/ssl/cert.pem", "/etc/ssl/certs")
    assert python(prefix, code, SSL_CERT_FILE="/dev/null", SSL_CERT_DIR="/nonexistent")[2] == 0
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        assert python(prefix, code, SSL_CERT_FILE=str(bundle))[2] > 0
    if Path("/etc/ssl/cert.pem").exists():
        assert count > 0


def test_ld_library_path_puts_nothing_under_it(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "libssl.so.1.1").write_bytes(b"not a library")
    (tmp_path / "libz.so.1").write_bytes(b"not a library")
    code = "import ssl, zlib\nprint(json.dumps(ssl.OPENSSL_VERSION))"
    assert python(prefix, code, LD_LIBRARY_PATH=str(tmp_path)).startswith("OpenSSL 1.1.1w")


def test_a_venv_of_it_has_pip(prefix: Path, tmp_path: Path) -> None:
    run(prefix, str(prefix / "bin/python"), "-m", "venv", str(tmp_path / "venv"))
    facts = python(
        tmp_path / "venv",
        "import sys, sysconfig, ssl\nprint(json.dumps([sys.prefix, sys.base_prefix, sysconfig.get_path('purelib')]))",
    )
    assert facts == [str(tmp_path / "venv"), str(prefix), f"{tmp_path}/venv/lib/python3.9/site-packages"]
    assert "python 3.9" in run(prefix, str(tmp_path / "venv/bin/pip"), "--version")


def starts_with_python_of(prefix: Path, script: Path) -> bool:
    # A path with a space cannot stand in a shebang; installers write a line of shell instead.
    first, second = script.read_text().splitlines()[:2]
    program = f"{prefix}/bin/python3.9"
    return f'"{program}"' in second if " " in program else first == f"#!{program}"


def test_pip_is_a_command_and_knows_who_installed_it(prefix: Path) -> None:
    assert starts_with_python_of(prefix, prefix / "bin/pip")
    expected = f"pip 26.0.1 from {prefix}/lib/python3.9/site-packages/pip (python 3.9)\n"
    assert run(prefix, str(prefix / "bin/pip"), "--version") == expected
    assert run(prefix, str(prefix / "bin/pip3"), "--version") == expected
    listed = json.loads(run(prefix, str(prefix / "bin/pip"), "list", "--format", "json", "-v"))
    assert {each["name"]: each["installer"] for each in listed} == {"envserve": "conda", "pip": "conda"}
    assert run(prefix, str(prefix / "bin/pip"), "check") == "No broken requirements found.\n"


def test_record_names_exactly_the_files_that_are_there(prefix: Path) -> None:
    code = """
from importlib.metadata import files
print(json.dumps({name: [[str(f), f.locate().exists(), f.hash.value if f.hash else None] for f in files(name)]
                  for name in ("pip", "envserve")}))
"""
    for name, rows in python(prefix, code).items():
        assert all(exists for _, exists, _ in rows), name
        assert ["../../../bin/pip" in row[0] or "../../../bin/envtool" in row[0] for row in rows].count(True) > 0


def test_our_own_packages_are_there(prefix: Path) -> None:
    code = "import envtool, serve\nprint(json.dumps([envtool.__file__, serve.__file__]))"
    site = prefix / "lib/python3.9/site-packages"
    assert python(prefix, code) == [str(site / "envtool/__init__.py"), str(site / "serve/__init__.py")]
    assert starts_with_python_of(prefix, prefix / "bin/envtool")
    assert (site / "envtool/recipes/python/recipe.yml").is_file()


def test_compiled_wheels_work_in_it(prefix: Path, tmp_path: Path) -> None:
    if "deeper" in str(prefix):
        pytest.skip("once is enough: nothing of a wheel depends on the directory")
    done = subprocess.run(
        [prefix / "bin/pip", "install", "--only-binary", ":all:", "--target", tmp_path / "site", "numpy==1.26.4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = "import numpy\nprint(json.dumps([numpy.__version__, float(numpy.linalg.inv(numpy.eye(3) * 2).trace())]))"
    assert python(prefix, code, PYTHONPATH=str(tmp_path / "site")) == ["1.26.4", 1.5]
