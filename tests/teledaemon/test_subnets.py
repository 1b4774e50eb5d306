"""The cluster's subnets, found with whatever the user may ask."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teledaemon import subnets
from teledaemon.kube import Cluster
from telewire.errors import Forbidden, Unavailable
from tests.teledaemon.conftest import ApiServer

Object = dict[str, Any]
SERVICES, PODS = "/api/v1/namespaces/default/services", "/api/v1/namespaces/default/pods"
CIDRS = "/apis/networking.k8s.io/{}/servicecidrs"
REFUSAL = (
    'Service "telepresence-probe-x" is invalid: spec.clusterIPs: Invalid value: ["{}"]: failed to allocate IP {}: '
    "the provided IP ({}) is not in the valid range. The range of valid IPs is {}"
)


def pod(*addresses: str, phase: str = "Running", host: bool = False) -> Object:
    return {
        "spec": {"hostNetwork": True} if host else {},
        "status": {"phase": phase, "podIPs": [{"ip": address} for address in addresses]},
    }


async def found(cluster: Cluster) -> tuple[list[str], list[str]]:
    services, pods = await subnets.find(cluster, "default")
    return [str(one) for one in services], [str(one) for one in pods]


@pytest.fixture
def nodes(server: ApiServer) -> None:
    """A cluster whose nodes may be listed."""
    one = {"spec": {"podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"], "podCIDR": "10.244.0.0/24"}}
    server.put("/api/v1/nodes", one, {"spec": {"podCIDR": "10.244.1.0/24"}}, {"spec": {}})
    server.put(PODS)


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_service_cidrs_and_nodes_tell_both_families(server: ApiServer, cluster: Cluster, version: str) -> None:
    server.put(
        CIDRS.format(version),
        {"spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}},
        {"spec": {"cidrs": ["10.97.0.0/16"]}},
    )
    assert await found(cluster) == (
        ["10.96.0.0/15", "fd00:10:96::/112"],
        ["10.244.0.0/23", "fd00:10:244::/64"],
    )
    assert not [asked for asked in server.paths() if asked.startswith("POST")]
    assert "GET /api/v1/pods" not in server.paths()  # a long list in a large cluster


@pytest.mark.usefixtures("nodes")
async def test_the_refusal_of_a_foreign_address_tells_the_service_subnet(server: ApiServer, cluster: Cluster) -> None:
    async def refuse(request: Any) -> Any:
        spec = (await request.json())["spec"]
        if spec["ipFamilies"] == ["IPv6"]:
            return 422, {"message": "spec.ipFamilies[0]: Invalid value: IPv6: not configured on this cluster"}
        return 422, {"message": REFUSAL.format(*[spec["clusterIP"]] * 3, "10.43.0.0/16")}

    server.answers[f"POST {SERVICES}"] = refuse
    assert (await found(cluster))[0] == ["10.43.0.0/16"]
    made = [(query, body["spec"]["clusterIP"]) for where, query, body, _ in server.asked if where.startswith("POST")]
    assert sorted(made, key=str) == [({"dryRun": "All"}, "192.0.2.1"), ({"dryRun": "All"}, "2001:db8::1")]


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("10.43.0.0/16", "10.43.0.0/16"),
        ("10.43.0.0/16.", "10.43.0.0/16"),
        ("10.43.0.0/16, spec.ports: Required value", "10.43.0.0/16"),
        ("10.43.0.0/16]", "10.43.0.0/16"),
        ("10.43.0.1/16", "10.43.0.0/16"),
        ("fd00:10:43::/112", "fd00:10:43::/112"),
    ],
)
async def test_whatever_stands_behind_the_range(server: ApiServer, cluster: Cluster, told: str, expected: str) -> None:
    server.refuse(f"POST {SERVICES}", 422, REFUSAL.format("a", "a", "a", told))
    assert (await found(cluster))[0] == [expected]


@pytest.mark.usefixtures("nodes")
async def test_services_tell_where_they_are_when_nothing_else_does(server: ApiServer, cluster: Cluster) -> None:
    server.put(
        SERVICES,
        {"spec": {"clusterIPs": ["10.43.7.1", "fd00:43::7"]}},
        {"spec": {"clusterIPs": ["10.43.9.9"]}},
        {"spec": {"clusterIPs": ["None"]}},
        {"spec": {}},
    )
    assert (await found(cluster))[0] == ["10.43.0.0/16", "fd00:43::/112"]


@pytest.mark.usefixtures("nodes")
async def test_pods_outside_the_nodes_subnets_have_one_around_them(server: ApiServer, cluster: Cluster) -> None:
    server.put(SERVICES)
    server.put(PODS, pod("10.244.0.9", "fd00:10:244::9"), pod("10.50.1.2", "fd00:50::2"), pod("10.50.1.3"))
    assert (await found(cluster))[1] == ["10.50.1.0/24", "10.244.0.0/23", "fd00:10:244::/64", "fd00:50::/64"]


async def test_without_nodes_all_pods_are_asked_for(server: ApiServer, cluster: Cluster) -> None:
    server.put(SERVICES)
    server.put("/api/v1/pods", pod("10.50.1.2"), pod("10.50.2.2", phase="Pending"))
    assert (await found(cluster))[1] == ["10.50.1.0/24", "10.50.2.0/24"]
    assert f"GET {PODS}" not in server.paths()


async def test_at_least_the_pods_of_the_namespace_are_found(server: ApiServer, cluster: Cluster) -> None:
    server.put(SERVICES)
    server.put(
        PODS,
        pod("10.50.1.2"),
        pod("10.0.0.5", host=True),
        pod("10.50.9.9", phase="Succeeded"),
        {"spec": {}, "status": {"phase": "Pending"}},
        {"spec": {}},
    )
    assert (await found(cluster))[1] == ["10.50.1.0/24"]


async def test_a_cluster_that_tells_nothing_is_an_error(server: ApiServer, cluster: Cluster) -> None:
    with pytest.raises(Forbidden):
        await found(cluster)
    server.refuse("GET /api/v1/nodes", 503, "etcd is gone")
    server.put(SERVICES)
    with pytest.raises(Unavailable, match="etcd is gone"):
        await found(cluster)


async def test_pods_within_the_service_subnet_are_not_told_twice(server: ApiServer, cluster: Cluster) -> None:
    server.put(CIDRS.format("v1"), {"spec": {"cidrs": ["10.0.0.0/8"]}})
    server.put(PODS, pod("10.50.1.2"), pod("fd00::1"))
    assert await found(cluster) == (["10.0.0.0/8"], ["fd00::/64"])


networks = st.one_of(
    st.builds(lambda n, p: IPv4Network((n, p), strict=False), st.integers(0, 2**32 - 1), st.integers(8, 32)),
    st.builds(lambda n, p: IPv6Network((n, p), strict=False), st.integers(0, 2**128 - 1), st.integers(16, 128)),
)


@given(st.lists(networks, max_size=8), st.lists(networks, max_size=8))
def test_routes_cover_all_and_do_not_overlap(some: list[Any], others: list[Any]) -> None:
    made = subnets.routes(some, others)
    for wanted in (*some, *others):
        assert sum(wanted.version == one.version and wanted.subnet_of(one) for one in made) == 1
    for one in made:
        assert not any(one is not two and one.version == two.version and one.overlaps(two) for two in made)


def test_the_documentation_addresses_are_nobodys() -> None:
    assert ip_address(subnets._OUTSIDE[4]) in ip_network("192.0.2.0/24")
    assert ip_address(subnets._OUTSIDE[6]) in ip_network("2001:db8::/32")
