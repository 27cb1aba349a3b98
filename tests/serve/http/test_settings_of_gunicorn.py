"""What gunicorn's own settings do with the event-loop worker: TLS, reuse_port, keep-alive, PROXY protocol, reloads."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import re
import signal
import socket
import ssl
import time

import pytest
from serving import Load, Server, assert_answers, wait_until
from trainer import ROW
from wire import BODY, Wire, post

pytestmark = pytest.mark.needs_torch
x509 = pytest.importorskip("cryptography.x509")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for the loopback, signed by itself, and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


@pytest.mark.both_workers
def test_tls(start_server, trainer, certificate, monkeypatch):
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--certfile {certificate[0]} --keyfile {certificate[1]}")
    published = trainer.publish(1)
    server = start_server(workers=1)
    server.wait_live(1, workers=1)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=trust)
    for _ in range(3):  # one handshake, several requests
        connection.request("POST", "/predict", BODY)
        assert json.loads(connection.getresponse().read())["outputs"] == [trainer.expected(published.sha256, ROW)]
    connection.request("GET", "/readyz")
    assert connection.getresponse().read() == b'{"ready": true}'
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
        plain.sendall(post())
        with contextlib.suppress(ConnectionResetError):  # gunicorn 23 does not wait for the end of what it refuses
            assert b"200" not in plain.recv(100)


def test_reuse_port_and_the_idle_time(start_server, trainer, monkeypatch):
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--reuse-port --keep-alive 1")
    trainer.publish(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start_server(workers=2, bind=f"127.0.0.1:{port}")
    server.wait_live(1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", server.port))  # refused, unless the server has set it as well
    with Wire(server.port) as wire:
        assert wire.ask(post()).status == 200
        began_s = time.monotonic()
        assert wire.socket.recv(100) == b""
        assert 0.5 < time.monotonic() - began_s < 20


def test_proxy_protocol_is_refused_at_the_start(tmp_path, trainer, monkeypatch):
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--proxy-protocol")
    server = Server(tmp_path, trainer.directory, {"worker": "asgi"})
    assert server.process.wait(60) == 3
    assert re.search(r"(?s)proxy_protocol: expected none.*worker = gthread", server.text)


def test_a_reload_of_gunicorn_resets_no_request(start_server, trainer):
    trainer.publish(1)
    server = start_server()
    server.wait_live(1)
    first = set(server.workers())
    with Load(server, ROW, threads=4) as load:
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not first & set(server.workers()) or load.failures, "other workers", lambda: server.text)
        load.wait_for_more(50)
    assert_answers(load, trainer)
