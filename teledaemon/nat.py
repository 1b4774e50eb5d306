"""The VIF's packet filter rules: why only a connection's first packet is seen in user space.

A SYN to a cluster address goes to the VIF without a conntrack entry. Written back after the dial has succeeded, it comes in over
the VIF, gets its entry and the destination NAT to the VIF's listener there, and every later packet of the connection follows that
entry inside the kernel (https://wiki.nftables.org/wiki-nftables/index.php/Setting_packet_connection_tracking_metainformation).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from telewire.errors import Unavailable

Network = IPv4Network | IPv6Network
TABLE = "telepresence"
_FIRST = "tcp flags & (fin|syn|rst|ack) == syn notrack"


def ruleset(device: str, own: dict[int, str], port: int, networks: Iterable[Network]) -> str:
    """Return nftables commands that replace the whole table, in one transaction.

    :param own: by IP version, the VIF's own address, to which connections are brought
    :param port: of the listener
    """
    listed = list(networks)
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    chains: dict[str, list[str]] = {"raw": [], "rawout": [], "nat": []}
    for version, ip in ((4, "ip"), (6, "ip6")):
        members = ", ".join(str(network) for network in listed if network.version == version)
        if not members or version not in own:
            continue
        lines.append(f" set subnets{version} {{ type ipv{version}_addr; flags interval; elements = {{ {members} }} }}")
        chains["raw"].append(f'iifname != "{device}" {ip} daddr @subnets{version} {_FIRST}')
        chains["rawout"].append(f"{ip} daddr @subnets{version} {_FIRST}")
        address = own[version] if version == 4 else f"[{own[version]}]"
        chains["nat"].append(
            f'iifname "{device}" {ip} daddr @subnets{version} meta l4proto tcp dnat {ip} to {address}:{port}'
        )
    hooks = {
        "raw": "filter hook prerouting priority raw",
        "rawout": "filter hook output priority raw",
        "nat": "nat hook prerouting priority dstnat",
    }
    for name, rules in chains.items():
        if rules:
            lines += [f" chain {name} {{ type {hooks[name]};", *(f"  {rule}" for rule in rules), " }"]
    return "\n".join([*lines, "}", ""])


async def apply(rules: str) -> None:
    """Hand ``rules`` to nft(8). Unavailable with nft's own words if it refuses them."""
    process = await asyncio.create_subprocess_exec(
        "nft", "-f", "-", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate(rules.encode())
    if process.returncode:
        first = said.decode(errors="replace").strip().splitlines()[:1]
        raise Unavailable(f"the kernel refuses the VIF's NAT rules: {first[0] if first else 'nft failed'}")
