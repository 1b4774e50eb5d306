"""Who may speak with the control API and the exports: the engine's host, not the containers beside the daemon."""

from __future__ import annotations

import ipaddress

from teledaemon.links import Links

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Peers:
    """Knows the networks that the daemon's container was given by the engine.

    What the host sends (also what it publishes) comes from a network's gateway. A neighbour has an address in one of the networks
    that is not its gateway; the containers of other networks cannot come in at all.
    """

    def __init__(self) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._gateways: set[Address] = set()

    async def learn(self, links: Links) -> None:
        """Look at the links that the engine has made; call it before others are made."""
        for address, prefix, device in await links.addresses():
            if device.startswith("eth"):
                network = ipaddress.ip_network((address, prefix), strict=False)
                self._networks.append(network)
                if network.num_addresses > 1:
                    self._gateways.add(network[1])
        self._gateways |= {ipaddress.ip_address(gateway) for gateway, _ in await links.default_routes()}

    def admits(self, peer: str, handlers: list[str]) -> bool:
        """Whether a peer is the engine's host or this container itself. ``handlers``: pools of the Teleroute networks, never admitted."""
        address = ipaddress.ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if address.is_loopback or address in self._gateways:
            return True
        pools = [ipaddress.ip_network(pool) for pool in handlers]
        return not any(
            address in network for network in (*self._networks, *pools) if network.version == address.version
        )
