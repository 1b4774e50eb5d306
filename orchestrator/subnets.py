"""Choose a subnet for the connection's network that is clear of everything this machine and the cluster use."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from telewire.errors import Unavailable

Network = IPv4Network | IPv6Network
ROUTES = Path("/proc/net/route")
_POOLS = ("10.255.0.0/16", "172.31.0.0/16", "192.168.0.0/16", "172.16.0.0/12", "10.128.0.0/9")


def parse(texts: Iterable[str]) -> list[Network]:
    """Return networks for CIDR texts; host bits may be set."""
    return [ip_network(text, strict=False) for text in texts if text]


def host_routes(table: str) -> list[Network]:
    """Return the destinations in the text of ``/proc/net/route``, without the default route."""
    found: list[Network] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        destination, mask = (socket.inet_ntoa(struct.pack("<I", int(fields[at], 16))) for at in (1, 7))
        network = IPv4Network(f"{destination}/{mask}", strict=False)
        if network.prefixlen:
            found.append(network)
    return found


def routes_here() -> list[Network]:
    """Return this machine's own routes; none where the kernel has no such table."""
    try:
        return host_routes(ROUTES.read_text())
    except FileNotFoundError:
        return []


def free(taken: Iterable[Network]) -> Iterator[IPv4Network]:
    """Return the free /24 subnets in the order in which they are to be tried: in each pool the highest first."""
    busy = [network for network in taken if isinstance(network, IPv4Network)]
    for pool in map(IPv4Network, _POOLS):
        start = int(pool.broadcast_address) & ~0xFF
        while start >= int(pool.network_address):
            block = IPv4Network((start, 24))
            in_the_way = [int(network.network_address) for network in busy if network.overlaps(block)]
            if not in_the_way:
                yield block
            # What covers more than this block covers all below it, down to its own first one.
            start = (min([start, *in_the_way]) & ~0xFF) - 256


def choose(taken: Iterable[Network]) -> IPv4Network:
    """Return the first free /24.

    :raises Unavailable: routes and networks cover all private address space
    """
    for block in free(taken):
        return block
    raise Unavailable(
        "no private /24 subnet is free of Docker's networks, this machine's routes and the cluster's subnets; "
        "remove unused networks with `docker network prune`"
    )


def unique_local() -> IPv6Network:
    """Return a random IPv6 /64 from the unique local addresses (RFC 4193)."""
    return IPv6Network((b"\xfd" + os.urandom(7) + bytes(8), 64))
