"""The cluster's certificates: what a TLS peer makes of them, and who may read the keys."""

from __future__ import annotations

import base64
import io
import ipaddress
import os
import ssl
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster import cluster, pki
from devcluster.engine import DevclusterError
from devcluster.settings import Settings

SERVICE = Settings("t").service_address
CONTEXT = "devcluster-t"
CERTIFICATES = ("ca", "apiserver", "kubelet-server", "apiserver-kubelet-client", "service-account")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return pki.files(CONTEXT, SERVICE)


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def name(one: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in one.subject.get_attributes_for_oid(oid)]


def user_of(conf: bytes) -> tuple[bytes, bytes]:
    user = yaml.safe_load(conf)["users"][0]["user"]
    return base64.b64decode(user["client-certificate-data"]), base64.b64decode(user["client-key-data"])


def loaded(folder: Path, pair: tuple[bytes, bytes], authority: bytes, *, server: bool) -> ssl.SSLContext:
    """An end of TLS with a certificate, which wants one of the other end, as strictly as OpenSSL can be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.decode())
    path = folder / ("server.pem" if server else "client.pem")
    path.write_bytes(pair[0] + pair[1])
    context.load_cert_chain(path)
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> Any:
    """Shake hands in memory; return the client's certificate as the server sees it."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=host),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].getpeercert()


@pytest.mark.parametrize(
    ("server", "hosts"),
    [
        ("apiserver", [*pki.API_NAMES, "127.0.0.1", SERVICE]),
        ("kubelet-server", [pki.NODE]),
    ],
)
@pytest.mark.parametrize("user", list(pki.USERS))
def test_servers_and_users_trust_one_another(
    files: dict[str, bytes], tmp_path: Path, server: str, hosts: list[str], user: str
) -> None:
    ca = files["pki/ca.crt"]
    there = loaded(tmp_path, (files[f"pki/{server}.crt"], files[f"pki/{server}.key"]), ca, server=True)
    here = loaded(tmp_path, user_of(files[f"{user}.conf"]), ca, server=False)
    for host in hosts:
        seen = dict(pair[0] for pair in handshake(here, there, host)["subject"])
        assert seen["commonName"] == pki.USERS[user][0]
    for other in ("example.com", "10.96.0.2", "kubernetes.default.svc.example.com"):
        with pytest.raises(ssl.SSLCertVerificationError, match="match"):
            handshake(here, there, other)


def test_another_authority_is_not_trusted(files: dict[str, bytes], tmp_path: Path) -> None:
    other = pki.Authority().issue("admin", "system:masters", ("localhost",))
    ca = files["pki/ca.crt"]
    pair = (files["pki/apiserver.crt"], files["pki/apiserver.key"])
    here = loaded(tmp_path, (other.certificate, other.key), ca, server=False)
    with pytest.raises(ssl.SSLError):
        handshake(here, loaded(tmp_path, pair, ca, server=True), "localhost")
    here = loaded(tmp_path, user_of(files["admin.conf"]), ca, server=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(here, loaded(tmp_path, (other.certificate, other.key), ca, server=True), "localhost")


def test_a_client_is_no_server(files: dict[str, bytes], tmp_path: Path) -> None:
    ca = files["pki/ca.crt"]
    client = user_of(files["admin.conf"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(loaded(tmp_path, client, ca, server=False), loaded(tmp_path, client, ca, server=True), "admin")


@pytest.mark.parametrize("part", CERTIFICATES)
def test_each_key_belongs_to_its_certificate(files: dict[str, bytes], part: str) -> None:
    key = serialization.load_pem_private_key(files[f"pki/{part}.key"], None)
    one = certificate(files[f"pki/{part}.crt"])
    assert key.public_key() == one.public_key()
    one.verify_directly_issued_by(certificate(files["pki/ca.crt"]))
    basic = one.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert basic.ca == (part == "ca")
    assert one.not_valid_before_utc < one.not_valid_after_utc


def test_names_and_addresses_of_the_servers(files: dict[str, bytes]) -> None:
    names = (
        certificate(files["pki/apiserver.crt"]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert names.get_values_for_type(x509.DNSName) == list(pki.API_NAMES)
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {SERVICE, "127.0.0.1"}
    assert ipaddress.ip_address(SERVICE) == ipaddress.ip_address("10.96.0.1")


@pytest.mark.parametrize("user", list(pki.USERS))
def test_users_are_whom_kubernetes_knows(files: dict[str, bytes], user: str) -> None:
    """https://kubernetes.io/docs/setup/best-practices/certificates/#configure-certificates-for-user-accounts"""
    one = certificate(user_of(files[f"{user}.conf"])[0])
    common, organization = pki.USERS[user]
    assert name(one, NameOID.COMMON_NAME) == [common]
    assert name(one, NameOID.ORGANIZATION_NAME) == ([organization] if organization else [])
    usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        one.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_clusters_do_not_share_anything(files: dict[str, bytes]) -> None:
    others = pki.files(CONTEXT, SERVICE)
    assert others.keys() == files.keys()
    assert not [path for path in files if files[path] == others[path]]


def test_a_kubeconfig_has_one_context(files: dict[str, bytes]) -> None:
    document = yaml.safe_load(files["admin.conf"])
    assert (document["apiVersion"], document["kind"], document["current-context"]) == ("v1", "Config", CONTEXT)
    assert document["contexts"] == [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}]
    (one,) = document["clusters"]
    assert (one["name"], one["cluster"]["server"]) == (CONTEXT, "https://127.0.0.1:6443")
    assert base64.b64decode(one["cluster"]["certificate-authority-data"]) == files["pki/ca.crt"]
    assert [user["name"] for user in document["users"]] == [CONTEXT]


@pytest.mark.parametrize("context", ["dev", "a: b", "*x", "on", "1"])
def test_any_context_name_survives(context: str) -> None:
    text = pki.kubeconfig(context, "https://h:1", b"ca", pki.Pair(b"c", b"k"))
    assert yaml.safe_load(text)["current-context"] == context


def test_nobody_else_reads_a_key(files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(cluster._archive({**files, "devcluster/settings": b"x"}))) as archive:
        modes = {entry.name: entry.mode for entry in archive}
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            secret = b"PRIVATE KEY" in (text := content.read()) or b"client-key-data" in text
            assert entry.mode == (0o600 if secret else 0o644), entry.name
            assert (entry.uid, entry.gid) == (0, 0)
    assert modes.keys() == {*files, "devcluster/settings"}


def test_the_kubeconfig_here_is_its_owners_alone(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BUILD", tmp_path)
    monkeypatch.setattr(cluster, "client", lambda: None)
    monkeypatch.setattr(cluster, "run_in", lambda *_: files["admin.conf"].decode())
    made = cluster.Cluster(Settings("t"))
    running: dict[str, Any] = {
        "State": {"Running": True},
        "NetworkSettings": {"Ports": {"6443/tcp": [{"HostPort": "4321"}]}},
    }
    monkeypatch.setattr(made, "inspect", lambda: running)
    mask = os.umask(0)
    try:
        for _ in range(2):
            made._write_kubeconfig()
    finally:
        os.umask(mask)
    assert made.kubeconfig == tmp_path / "t" / "kubeconfig"
    assert made.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(made.kubeconfig.read_text())["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:4321"
    assert [file.name for file in made.kubeconfig.parent.iterdir()] == ["kubeconfig"]
    running["State"]["Running"] = False
    with pytest.raises(DevclusterError, match="cluster t is stopped; `python -m devcluster up` brings it up"):
        made.port()
