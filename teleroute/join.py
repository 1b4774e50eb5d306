"""What Join answers: which link, and which routes the container gets. Pure.

https://github.com/moby/moby/blob/master/daemon/libnetwork/docs/remote.md#join
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from teleroute.options import Network

PREFIX = "eth"
NEXT_HOP = 0
"""The route type that has a gateway."""


def link_names(endpoint: str) -> tuple[str, str]:
    """Return the names of an endpoint's veth pair: at the engine's side, and in the daemon; 15 characters at most (IFNAMSIZ)."""
    return f"tr{endpoint[:13]}", f"te{endpoint[:13]}"


def mac_address(address: str) -> str:
    """Return the hardware address for an IPv4 address: the same after a restart, so that neighbours need not learn it anew."""
    packed = ipaddress.ip_interface(address).ip.packed
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *packed[-4:]))


def answer(network: Network, interface: str, routes: Iterable[str]) -> dict[str, Any]:
    """Return the answer to Join.

    Without ``gateway=daemon`` the container keeps the default route of its other network, and with it ``-p``; the cluster's subnets
    are routed to the daemon (DisableGatewayService, or dockerd would add a link of its own).
    """
    hops = {subnet.version: subnet.next_hop for subnet in network.subnets}
    reply: dict[str, Any] = {
        "InterfaceName": {"SrcName": interface, "DstPrefix": PREFIX},
        "DisableGatewayService": True,
    }
    if network.gateway == "daemon":
        for version, key in ((4, "Gateway"), (6, "GatewayIPv6")):
            if version in hops:
                reply[key] = hops[version]
    else:
        reply["StaticRoutes"] = [
            {"Destination": route, "RouteType": NEXT_HOP, "NextHop": hops[version]}
            for route in routes
            if (version := ipaddress.ip_network(route).version) in hops
        ]
    return reply


def addresses(interface: Mapping[str, Any]) -> list[str]:
    """Return the addresses that an endpoint's ``Interface`` has."""
    return [str(interface[key]) for key in ("Address", "AddressIPv6") if interface.get(key)]
