"""What the virtual environments of the clients hold.

Some clients are heavy, and some want other versions than the tests do, so none of them is a requirement of ours.
"""

from __future__ import annotations

import sys

_IS_OLD = sys.version_info < (3, 10)
TRITON = ["tritonclient[http]>=2.41", "open-inference-openapi==2.0.0.1", *(["gevent<25"] if _IS_OLD else [])]
SCHEMATHESIS = ["schemathesis>=4,<5"]
# What KServe's client imports; all that the package asks for is several times as much.
KSERVE = [
    "cloudevents<2",
    "fastapi",
    "grpc-interceptor",
    "grpcio",
    "httpx",
    "kubernetes",
    "numpy<2" if _IS_OLD else "numpy",
    "orjson",
    "pandas",
    "prometheus-client",
    "protobuf>=5,<6" if _IS_OLD else "protobuf>=6.33.5,<7",
    "psutil",
    "pydantic",
    "pyyaml",
    "requests",
    "six",
    "tabulate",
    "timing-asgi",
    "uvicorn",
    "watchfiles",
]
KSERVE_ITSELF = ["kserve==0.16.0" if _IS_OLD else "kserve>=0.16"]
