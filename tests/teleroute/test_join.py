"""What Join answers."""

from __future__ import annotations

import pytest

from teleroute import join
from teleroute.options import Network, Subnet

FOUR, SIX = Subnet("10.81.0.0/24", "10.81.0.1/24"), Subnet("fd81::/64", "fd81::1/64")
ROUTES = ["10.96.0.0/12", "10.244.0.0/16", "fd96::/112"]


def network(gateway: str, *subnets: Subnet) -> Network:
    """Return a network of the daemon."""
    return Network("n" * 64, "172.17.0.2:4038", "secret", gateway, None, subnets)


def test_the_default_route_stays_where_it_is_and_the_cluster_is_at_the_daemon() -> None:
    assert join.answer(network("none", FOUR), "tr1", ROUTES) == {
        "InterfaceName": {"SrcName": "tr1", "DstPrefix": "eth"},
        "DisableGatewayService": True,
        "StaticRoutes": [
            {"Destination": "10.96.0.0/12", "RouteType": 0, "NextHop": "10.81.0.1"},
            {"Destination": "10.244.0.0/16", "RouteType": 0, "NextHop": "10.81.0.1"},
        ],
    }


def test_each_family_is_routed_by_its_own_next_hop() -> None:
    answer = join.answer(network("none", FOUR, SIX), "tr1", ROUTES)
    assert [route["NextHop"] for route in answer["StaticRoutes"]] == ["10.81.0.1", "10.81.0.1", "fd81::1"]
    answer = join.answer(network("none", SIX), "tr1", ROUTES)
    assert [route["Destination"] for route in answer["StaticRoutes"]] == ["fd96::/112"]


def test_the_daemon_as_gateway_needs_no_other_route() -> None:
    answer = join.answer(network("daemon", FOUR, SIX), "tr1", ROUTES)
    assert (answer["Gateway"], answer["GatewayIPv6"]) == ("10.81.0.1", "fd81::1")
    assert "StaticRoutes" not in answer
    assert "GatewayIPv6" not in join.answer(network("daemon", FOUR), "tr1", ROUTES)


@pytest.mark.parametrize("gateway", ["none", "daemon"])
def test_docker_never_adds_a_link_of_its_own(gateway: str) -> None:
    assert join.answer(network(gateway, FOUR), "tr1", [])["DisableGatewayService"] is True


def test_a_daemon_that_is_not_connected_has_no_routes() -> None:
    assert join.answer(network("none", FOUR), "tr1", [])["StaticRoutes"] == []


def test_link_names_fit_the_kernel_and_differ() -> None:
    here, there = join.link_names("0123456789abcdef" * 4)
    assert (here, there) == ("tr0123456789abc", "te0123456789abc")
    assert len(here) == len(there) == 15


def test_the_same_address_has_the_same_hardware_address() -> None:
    assert join.mac_address("10.81.0.2/24") == join.mac_address("10.81.0.2/16") == "02:42:0a:51:00:02"
    assert join.mac_address("fd81::1:2/64") == "02:42:00:01:00:02"


def test_addresses_are_those_that_docker_gave() -> None:
    assert join.addresses({"Address": "10.81.0.2/24", "AddressIPv6": "", "MacAddress": ""}) == ["10.81.0.2/24"]
    assert join.addresses({"Address": "", "AddressIPv6": "fd81::2/64"}) == ["fd81::2/64"]
    assert join.addresses({"Address": "10.81.0.2/24", "AddressIPv6": "fd81::2/64"}) == ["10.81.0.2/24", "fd81::2/64"]
    assert join.addresses({}) == []
