"""The door to etcd, on real etcd: transactions, leases, a watch; nodes that die, certificates, users."""

from __future__ import annotations

import datetime
import json
import time
import urllib.request

import pytest
from etcd import Cluster

from serve.errors import FleetError
from serve.fleet.etcd import Etcd
from serve.fleet.keys import LeaseLostError, Transaction, follow


@pytest.fixture
def start(tmp_path):
    clusters = []

    def begin(*arguments, **options):
        clusters.append(Cluster(tmp_path, *arguments, **options))
        return clusters[-1]

    yield begin
    for cluster in clusters:
        cluster.stop()


def post(url, path, **body):
    request = urllib.request.Request(f"{url}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.loads(response.read())


def test_a_transaction_is_carried_out_whole_if_nothing_has_changed(start):
    cluster = start()
    cluster.wait()
    keys = Etcd(tuple(cluster.clients), "p/")
    assert keys.commit(Transaction({"now/a": 0}, puts={"now/a": "1", "entry/1": "x"}))
    first = keys.read("now/")
    assert [(key, item.value) for key, item in first.items.items()] == [("now/a", "1")]
    assert not keys.commit(Transaction({"now/a": 0}, puts={"now/b": "2"}))
    assert keys.commit(Transaction({"now/a": first.items["now/a"].changed}, puts={"now/a": "2"}))
    assert not keys.commit(Transaction(quiet={"now/": first.revision}, puts={"now/c": "3"}))
    now = keys.read("now/")
    assert keys.commit(Transaction(quiet={"now/": now.revision}, deletes=("now/a",)))
    assert keys.read("now/").items == {}


def take(keys):
    """Wait for what the watch tells next; `None` where it was cut off."""
    until_s = time.monotonic() + 10
    while True:
        found = keys.take()
        if found is None or found:
            return found
        assert time.monotonic() < until_s
        keys.wait(0.2)


def test_what_hangs_on_a_lease_goes_with_it_and_a_watch_tells_what_changes(start):
    cluster = start()
    cluster.wait()
    keys, other = (Etcd(tuple(cluster.clients), "p/") for _ in range(2))
    lease, ttl_s = keys.grant(1.0)
    assert ttl_s >= 1
    seen = other.read("hosts/", "now/", "roster/a")
    other.watch("hosts/", "roster/", seen.revision)
    first = keys.commit(Transaction(puts={"entry/1": "x", "now/b": "2"}, leased={"hosts/a": "1"}, lease=lease))
    found = take(other)
    assert [(one.key, one.revision, one.before) for one in sorted(found)] == [
        ("hosts/a", first, 0),
        ("now/b", first, 0),
    ]
    assert follow(seen, found, seen.revision) == other.read("hosts/", "now/")
    assert keys.read("hosts/a", "hosts/b").items["hosts/a"].lease == lease
    assert keys.keep_alive(lease) == first
    second = keys.commit(Transaction(leased={"hosts/a": "2"}, lease=lease))
    post(cluster.clients[0], "lease/revoke", ID=str(lease))
    while len(found) < 4:
        found += take(other)
    assert [(one.key, one.before) for one in found[2:]] == [("hosts/a", first), ("hosts/a", second)]
    assert follow(seen, found, seen.revision) == other.read("hosts/", "now/")
    assert list(other.read("hosts/", "now/").items) == ["now/b"]
    assert not keys.keep_alive(lease)
    with pytest.raises(LeaseLostError):
        keys.commit(Transaction(leased={"hosts/a": "1"}, lease=lease))


def test_a_watch_that_cannot_go_on_is_known_to_be_cut_off(start):
    cluster = start()
    cluster.wait()
    keys = Etcd(tuple(cluster.clients), "p/")
    assert keys.take() is None
    first = keys.commit(Transaction(puts={"now/a": "1"}))
    last = keys.commit(Transaction(puts={"now/a": "2"}))
    post(cluster.clients[0], "kv/compaction", revision=str(last), physical=True)
    keys.watch("now/", "now/", first - 1)
    while keys.take() is not None:
        keys.wait(0.2)
    keys.watch("now/", "now/", last)
    third = keys.commit(Transaction(puts={"now/a": "3"}))
    assert [one.revision for one in take(keys)] == [third]
    keys.watch("roster/", "roster/", third)
    keys.commit(Transaction(puts={"now/a": "4"}))
    keys.commit(Transaction(puts={"roster/a": "4"}))
    assert [one.key for one in take(keys)] == ["roster/a"]
    cluster.kill()
    while keys.take() is not None:
        keys.wait(0.2)


def test_one_of_three_nodes_may_die(start):
    cluster = start(3)
    cluster.wait()
    keys = Etcd(tuple(cluster.clients), "p/")
    status = [post(url, "maintenance/status") for url in cluster.clients]
    leader = next(n for n, one in enumerate(status) if one["header"]["member_id"] == one["leader"])
    keys._at = leader
    assert keys.commit(Transaction(puts={"now/a": "1"}))
    cluster.kill(leader)
    until_s = time.monotonic() + 30
    while True:
        try:
            assert keys.read("now/").items["now/a"].value == "1"
            assert keys.commit(Transaction(puts={"now/a": "2"}))
            break
        except FleetError:  # they choose another leader
            assert time.monotonic() < until_s
    cluster.kill((leader + 1) % 3)
    with pytest.raises(FleetError, match="etcd at"):
        keys.commit(Transaction(puts={"now/a": "3"}))


def test_a_user_has_to_show_the_password(start, tmp_path):
    cluster = start()
    cluster.wait()
    (url,) = cluster.clients
    post(url, "auth/user/add", name="root", password="secret")
    post(url, "auth/user/grant", user="root", role="root")
    post(url, "auth/enable")
    with pytest.raises(FleetError):
        Etcd((url,), "p/").read("now/")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "user").write_text("root:secret\n")
    keys = Etcd((url,), "p/", secrets)
    assert keys.commit(Transaction(puts={"now/a": "1"}))
    keys._token = "of another node"
    assert keys.read("now/").items["now/a"].value == "1"


def make_certificates(directory):
    """Make an authority, and a certificate of it for the loopback, for a server and a client."""
    x509 = pytest.importorskip("cryptography.x509")
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    directory.mkdir()
    today = datetime.datetime.now(datetime.timezone.utc)

    def make(name, issuer, signing, is_authority):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder(issuer or subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        certificate = builder.sign(signing or key, hashes.SHA256())
        return key, certificate

    authority, root = make("authority", None, None, True)
    key, certificate = make("envserve", root.subject, authority, False)
    (directory / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (directory / "client.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "client.key").write_bytes(key.private_bytes(*form))
    return directory


def test_certificates_are_asked_for_on_both_sides(start, tmp_path):
    secrets = make_certificates(tmp_path / "secrets")
    files = {"cert-file": "client.pem", "key-file": "client.key", "trusted-ca-file": "ca.pem"}
    options = (*(f"--{key}={secrets / name}" for key, name in files.items()), "--client-cert-auth")
    cluster = start(1, "https", options)
    keys = Etcd(tuple(cluster.clients), "p/", secrets)
    until_s = time.monotonic() + 30
    while True:
        try:
            keys.read("now/")
            break
        except FleetError:
            assert time.monotonic() < until_s
            time.sleep(0.1)
    assert keys.commit(Transaction(puts={"now/a": "1"}))
    with pytest.raises(FleetError, match="certificate"):
        Etcd(tuple(cluster.clients), "p/").read("now/")
    (secrets / "client.pem").unlink()
    with pytest.raises(FleetError):
        Etcd(tuple(cluster.clients), "p/", secrets).read("now/")


def test_a_secret_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "client.pem").write_text("nothing")
    with pytest.raises(FleetError, match="fleet_secrets"):
        Etcd(("https://127.0.0.1:1",), "p/", tmp_path)
