"""Requests on their way: proxies, redirects, passwords and certificates, as people know them from other programs."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from envtool.fetch import client
from envtool.fetch.failover import Timeouts, TransferError

_PATIENCE = Timeouts(connect_timeout_s=5, read_timeout_s=5)
Asked = list[tuple[str, str, dict[str, str]]]
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@contextlib.contextmanager
def server(asked: Asked, redirects: Callable[[str], str | None] = lambda path: None) -> Iterator[ThreadingHTTPServer]:
    """A server that notes what it is asked, the request line's target as it stands."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append((self.command, self.path, dict(self.headers)))
            target = redirects(self.path)
            self.send_response(403 if self.command == "CONNECT" else 302 if target else 200)
            if target:
                self.send_header("Location", target)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield made
        finally:
            made.shutdown()


def get(url: str) -> bytes:
    with client.get(url, patience=_PATIENCE) as body:
        return b"".join(body.chunks)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_proxy_is_shown_the_url_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    with server(asked) as proxy:
        monkeypatch.setenv("http_proxy", f"http://pro:x%40y@127.0.0.1:{proxy.server_port}")
        assert get("http://me:s3cret@h.example/a?b#c") == b"ok"
        ((method, target, headers),) = asked
        assert (method, target) == ("GET", "http://h.example/a?b")
        assert headers["Proxy-Authorization"] == basic("pro", "x@y")
        assert headers["Authorization"] == basic("me", "s3cret")
        assert (headers["Host"], headers["User-Agent"], headers["Accept-Encoding"]) == (
            "h.example", "envtool", "identity",
        )  # fmt: skip


def test_a_proxy_is_asked_for_a_tunnel_and_not_told_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    with server(asked) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.server_port}")  # people leave the scheme out
        with pytest.raises(TransferError, match=r"no connection: .*403") as failed:
            get("https://me:s3cret@h.example/a")
        assert failed.value.is_down
        ((method, target, headers),) = asked
        assert (method, target) == ("CONNECT", "h.example:443")
        assert "Authorization" not in headers


def test_a_host_that_no_proxy_names_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with server(asked) as origin:
        with pytest.raises(TransferError, match="no connection"):
            get(f"http://127.0.0.1:{origin.server_port}/a")
        monkeypatch.setenv("NO_PROXY", "h.example, 127.0.0.0/8")
        assert get(f"http://127.0.0.1:{origin.server_port}/a") == b"ok"


def test_a_password_goes_along_a_redirect_to_the_same_place_only(tmp_path: Path) -> None:
    here: Asked = []
    there: Asked = []
    with server(there) as other:
        ways = {"/a": "b%20c?d=1#e", "/b%20c?d=1": f"http://localhost:{other.server_port}/\xc3\xbc"}
        with server(here, ways.get) as origin:
            assert get(f"http://me:s3cret@127.0.0.1:{origin.server_port}/a") == b"ok"
            assert [target for _, target, _ in here] == ["/a", "/b%20c?d=1"]
            assert [headers.get("Authorization") for _, _, headers in here] == [basic("me", "s3cret")] * 2
            assert [(target, headers.get("Authorization")) for _, target, headers in there] == [("/%C3%BC", None)]
            # Another place has its own in netrc, which also comes before the one in a URL.
            (tmp_path / ".netrc").write_text("machine localhost login you password 0ther\n")
            assert get(f"http://me:s3cret@127.0.0.1:{origin.server_port}/a") == b"ok"
            assert there[-1][2]["Authorization"] == basic("you", "0ther")
            assert get(f"http://me:s3cret@localhost:{origin.server_port}/x") == b"ok"
            assert here[-1][2]["Authorization"] == basic("you", "0ther")


def test_redirects_that_never_end() -> None:
    asked: Asked = []
    with server(asked, lambda path: path) as origin:
        with pytest.raises(TransferError, match="30") as failed:
            get(f"http://127.0.0.1:{origin.server_port}/a")
        assert not failed.value.is_transient
        assert len(asked) == 31


def test_a_redirect_whose_body_never_ends_is_followed_at_once() -> None:
    is_over = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not is_over.wait(0.05):
                    self.wfile.write(b"x")

    with server([]) as origin, ThreadingHTTPServer(("127.0.0.1", 0), Endless) as made:
        target = f"http://127.0.0.1:{origin.server_port}/a"
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        answers: list[bytes] = []
        asking = threading.Thread(
            target=lambda: answers.append(get(f"http://127.0.0.1:{made.server_port}/a")), daemon=True
        )
        asking.start()
        asking.join(5)
        found = list(answers)
        is_over.set()
        made.shutdown()
        assert found == [b"ok"]


def test_a_redirect_to_what_is_no_url() -> None:
    for target in ("http://h.example:x/", "http://127.0.0.1:x/", "ftp://h.example/", "http://"):
        with server([], {"/a": target}.get) as origin, pytest.raises(TransferError) as failed:
            get(f"http://127.0.0.1:{origin.server_port}/a")
        assert not failed.value.is_transient, target


def test_certificates_are_those_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    certificate, key = self_signed(tmp_path, "localhost")
    with server([]) as made:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        made.socket = context.wrap_socket(made.socket, server_side=True)
        url = f"https://localhost:{made.server_port}/a"
        with pytest.raises(TransferError, match="TLS failed: CERTIFICATE_VERIFY_FAILED") as failed:
            get(url)
        assert failed.value.is_down
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert get(url) == b"ok"
        with pytest.raises(TransferError, match="TLS failed: "):
            get(url.replace("localhost", "127.0.0.1"))  # its name is another
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
        with pytest.raises(TransferError, match=r"TLS failed: .*nowhere.pem"):
            get(url)


def test_a_tunnel_ends_at_the_server_whose_certificate_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    certificate, key = self_signed(tmp_path, "localhost")
    asked: Asked = []
    with server(asked) as made, tunnel() as (port, told):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        made.socket = context.wrap_socket(made.socket, server_side=True)
        monkeypatch.setenv("https_proxy", f"http://pro:x%40y@127.0.0.1:{port}")
        url = f"https://me:s3cret@localhost:{made.server_port}/a"
        with pytest.raises(TransferError, match="CERTIFICATE_VERIFY_FAILED"):
            get(url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert get(url) == b"ok"
        assert [(target, headers["Authorization"]) for _, target, headers in asked] == [("/a", basic("me", "s3cret"))]
        assert told[-1].startswith(f"CONNECT localhost:{made.server_port} ")
        assert f"Proxy-Authorization: {basic('pro', 'x@y')}" in told[-1]
        assert basic("me", "s3cret") not in "".join(told)


@contextlib.contextmanager
def tunnel() -> Iterator[tuple[int, list[str]]]:
    """A proxy that connects whoever asks, and what it was told."""
    told: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                head += self.request.recv(1000)
            told.append(head.decode())
            host, _, port = told[-1].split()[1].rpartition(":")
            with socket.create_connection((host, int(port))) as beyond:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                ends = {self.request: beyond, beyond: self.request}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        content = end.recv(10_000)
                        if not content:
                            return
                        ends[end].sendall(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield made.server_address[1], told
        finally:
            made.shutdown()


def self_signed(directory: Path, name: str) -> tuple[Path, Path]:
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


@pytest.mark.parametrize("environment", [
    {}, {"http_proxy": "p.example:3128"}, {"HTTPS_PROXY": "https://p.example"}, {"all_proxy": "socks5://p.example:1"},
    {"http_proxy": "http://p", "no_proxy": "h.example"}, {"http_proxy": "http://p", "NO_PROXY": ".example, b.org"},
    {"http_proxy": "http://p", "no_proxy": "*"}, {"http_proxy": "http://p", "no_proxy": "h.example:81,x.h.example:80"},
    {"http_proxy": "http://p", "no_proxy": "127.0.0.0/8,10.1.2.3"}, {"http_proxy": "p", "no_proxy": "10.1.2.3/40"},
    {"all_proxy": "http://p", "https_proxy": "http://q", "no_proxy": "a.h.example"}, {"http_proxy": ""},
])  # fmt: skip
def test_which_proxy_is_asked_is_what_requests_would_ask(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy

    from envtool.fetch.client import proxy_for

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts = ("h.example", "x.h.example:80", "h.example:81", "127.0.0.1:8", "10.1.2.3", "[::1]:8", "localhost")
    for host in hosts:
        for scheme in ("http", "https"):
            url = f"{scheme}://{host}/a"
            expected = select_proxy(url, get_environ_proxies(url))
            found = proxy_for(url)
            assert urlsplit(found or "") == urlsplit(prepend_scheme_if_needed(expected, "http") if expected else ""), (
                url
            )


def test_a_host_whose_name_ends_alike_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from envtool.fetch.client import proxy_for

    monkeypatch.setenv("http_proxy", "p.example")
    monkeypatch.setenv("no_proxy", "h.example")
    assert proxy_for("http://hh.example/") == "http://p.example"
