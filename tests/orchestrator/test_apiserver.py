"""The way from the daemon's container to the API server."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.apiserver import find, is_loopback
from telewire.errors import BadRequest

NETWORKS = [
    {"Name": "bridge", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}},
    {"Name": "kind", "IPAM": {"Config": [{"Subnet": "172.18.0.0/16"}, {"Subnet": "fc00:f853::/64"}]}},
    {"Name": "host", "IPAM": {"Config": None}},
]


def container(address: str, network: str, public: int, where: str = "127.0.0.1") -> dict[str, Any]:
    return {
        "Ports": [
            {"PrivatePort": 22, "Type": "tcp"},
            {"IP": where, "PublicPort": public, "PrivatePort": 6443, "Type": "tcp"},
        ],
        "NetworkSettings": {"Networks": {network: {"IPAddress": address}}},
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "127.1.2.3"])
def test_published_by_a_container(host: str) -> None:
    route = find({"server": f"https://{host}:40001/base"}, [container("172.18.0.2", "kind", 40001)], NETWORKS)
    assert route.cluster["server"] == "https://172.18.0.2:6443/base"
    assert route.cluster["tls-server-name"] == host.strip("[]")
    assert route.network == "kind"
    assert not route.host_gateway


def test_default_bridge_needs_no_attachment_and_the_name_that_is_set_stays() -> None:
    cluster = {"server": "https://127.0.0.1:40001", "tls-server-name": "kubernetes"}
    route = find(cluster, [container("172.17.0.3", "bridge", 40001, "0.0.0.0")], NETWORKS)
    assert route.network is None
    assert route.cluster == {"server": "https://172.17.0.3:6443", "tls-server-name": "kubernetes"}
    assert cluster["server"] == "https://127.0.0.1:40001"


def test_published_on_another_address_or_port_is_not_it() -> None:
    others = [container("172.18.0.2", "kind", 40001, "192.0.2.1"), container("172.18.0.3", "kind", 40002)]
    route = find({"server": "https://127.0.0.1:40001"}, others, NETWORKS)
    assert route.host_gateway
    assert route.cluster["server"] == "https://host.docker.internal:40001"
    assert route.cluster["tls-server-name"] == "127.0.0.1"


def test_elsewhere_stays_as_it_is() -> None:
    route = find({"server": "https://kube.example"}, [], NETWORKS)
    assert route.cluster == {"server": "https://kube.example"}
    assert not route.host_gateway


def test_an_address_on_a_docker_network_needs_attachment() -> None:
    assert find({"server": "https://172.18.0.9:8443"}, [], NETWORKS).network == "kind"
    assert find({"server": "https://172.17.0.9:8443"}, [], NETWORKS).network is None


def test_a_proxy_on_this_machine() -> None:
    route = find({"server": "https://127.0.0.1:1", "proxy-url": "http://localhost:3128"}, [], NETWORKS)
    assert route.cluster == {"server": "https://127.0.0.1:1", "proxy-url": "http://host.docker.internal:3128"}


@pytest.mark.parametrize("server", ["kube.example:6443", "https://", "https://host:port"])
def test_no_url(server: str) -> None:
    with pytest.raises(BadRequest, match="no URL"):
        find({"server": server}, [], [])


def test_loopback() -> None:
    assert is_loopback("::")
    assert not is_loopback("kubernetes.docker.internal")
