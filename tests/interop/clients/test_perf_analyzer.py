"""NVIDIA's perf_analyzer, which the wheel tritonclient 2.41.1 holds, asks the server as fast as it can.

It needs libb64, which Debian has; where neither the system nor apt has it, the test is skipped and says so.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support import debian
from tests.support.environments import make_environment

PACKAGES = ["tritonclient==2.41.1", "nvidia-cuda-runtime-cu12"]


def libraries(place):
    """The directories of what perf_analyzer is linked with, beside the system's."""
    unpacked = debian.unpack(place / "libb64", "libb64-0d")
    found = [*unpacked.glob("usr/lib/*/libb64.so*"), *place.glob("lib/python*/site-packages/nvidia/*/lib/libcudart*")]
    return sorted({str(path.parent) for path in found})


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["binary", "json"])
def test_perf_analyzer(server, form):
    place = make_environment([], PACKAGES).parent.parent
    program = str(place / "bin" / "perf_analyzer")
    environ = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries(place))}
    linked = subprocess.run(["ldd", program], env=environ, stdout=subprocess.PIPE, text=True)
    if "not found" in linked.stdout or linked.returncode != 0:
        pytest.skip(f"perf_analyzer cannot be linked here: {linked.stdout}")
    formats = ["--input-tensor-format", form, "--output-tensor-format", form]
    # It measures until three windows agree, which on a busy machine they need not; any of its answers will do.
    options = ["-m", "affine", "-u", f"127.0.0.1:{server.port}", "--shape", "inputs:1,4", "-p", "1000", "-s", "500"]
    done = subprocess.run([program, *options, *formats], env=environ, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "Throughput" in done.stdout
    assert server.events("request_failed") == []
