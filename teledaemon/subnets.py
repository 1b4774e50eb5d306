"""Which addresses are the cluster's: its Service and Pod subnets, found with whatever the user may ask."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from teledaemon.kube import Cluster, Object, path
from telewire.errors import Conflict, Forbidden, NotFound, TeleError

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
_RANGE = re.compile(r"range of valid IPs is ([0-9a-fA-F.:]+/[0-9]+)")
_OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): in nobody's Service subnet."""
_AROUND_POD = {4: 24, 6: 64}
_AROUND_SERVICE = {4: 16, 6: 112}


async def find(cluster: Cluster, namespace: str) -> tuple[list[Network], list[Network]]:
    """Return the Service and the Pod subnets, neither overlapping itself. TeleError if the cluster cannot be asked."""
    services, pods = await asyncio.gather(_services(cluster, namespace), _pods(cluster, namespace))
    return services, _without(pods, services)


async def _services(cluster: Cluster, namespace: str) -> list[Network]:
    """Ask for ServiceCIDR objects (Kubernetes 1.31 on), else let a Service with a foreign address be refused."""
    for version in ("v1", "v1beta1"):
        with contextlib.suppress(Forbidden, NotFound):
            items = await cluster.list(f"networking.k8s.io/{version}/servicecidrs")
            found = [ipaddress.ip_network(cidr) for item in items for cidr in item["spec"].get("cidrs") or []]
            if found:
                return _collapse(found)
    refusals = await asyncio.gather(*(_refusal(cluster, namespace, version) for version in (4, 6)))
    found = [network for network in refusals if network is not None]
    if found:
        return _collapse(found)
    services = await cluster.list("services", namespace)
    addresses = [a for s in services for a in s["spec"].get("clusterIPs") or [] if a not in ("None", "")]
    return _collapse(_around(addresses, _AROUND_SERVICE))


async def _refusal(cluster: Cluster, namespace: str, version: int) -> Network | None:
    """Return the Service subnet that the API server names when it refuses an address outside it; a dry run changes nothing."""
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"generateName": "telepresence-probe-"},
        "spec": {
            "clusterIP": _OUTSIDE[version],
            "ipFamilies": [f"IPv{version}"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80}],
        },
    }
    try:
        await cluster.request("POST", path("services", namespace), body, query={"dryRun": "All"})
    except (Forbidden, NotFound, Conflict) as error:
        log.info("the Service subnet may not be asked for: %s", error)
    except TeleError as error:
        if match := _RANGE.search(str(error)):
            return ipaddress.ip_network(match[1], strict=False)
        log.info("no IPv%d Service subnet: %s", version, error)
    return None


async def _pods(cluster: Cluster, namespace: str) -> list[Network]:
    """Take the nodes' pod subnets, and around each pod outside of them a subnet of its own."""
    found: list[Network] = []
    with contextlib.suppress(Forbidden):
        for node in await cluster.list("nodes"):
            spec = node["spec"]
            cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
            found += [ipaddress.ip_network(cidr) for cidr in cidrs]
    pods: list[Object] = []
    if not found:  # in a large cluster the list is long
        with contextlib.suppress(Forbidden):
            pods = await cluster.list("pods")
    pods = pods or await cluster.list("pods", namespace)
    outside = [
        address
        for address in _addresses(pods)
        if not any(ipaddress.ip_address(address) in network for network in found)
    ]
    return _collapse([*found, *_around(outside, _AROUND_POD)])


def _addresses(pods: Iterable[Object]) -> list[str]:
    """Return the addresses of pods that have their own."""
    found = []
    for pod in pods:
        status: dict[str, Any] = pod.get("status") or {}
        if not pod["spec"].get("hostNetwork") and status.get("phase") in ("Running", "Pending"):
            found += [entry["ip"] for entry in status.get("podIPs") or [] if entry.get("ip")]
    return found


def _around(addresses: Iterable[str], prefixes: dict[int, int]) -> list[Network]:
    return [
        ipaddress.ip_network((address, prefixes[ipaddress.ip_address(address).version]), strict=False)
        for address in addresses
    ]


def _collapse(networks: Iterable[Network]) -> list[Network]:
    listed = list(networks)
    four = ipaddress.collapse_addresses([n for n in listed if isinstance(n, IPv4Network)])
    six = ipaddress.collapse_addresses([n for n in listed if isinstance(n, IPv6Network)])
    return [*four, *six]


def _without(networks: list[Network], others: list[Network]) -> list[Network]:
    """Return ``networks`` less those that lie within ``others``."""
    return [
        network
        for network in networks
        if not any(network.version == other.version and network.subnet_of(other) for other in others)  # type: ignore[arg-type]
    ]


def routes(*groups: Iterable[Network]) -> list[Network]:
    """Return all subnets as few non-overlapping ones."""
    return _collapse(network for group in groups for network in group)
