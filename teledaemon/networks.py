"""The daemon's side of Docker networks: a bridge each, with the gateway addresses, and the links that Teleroute puts there."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from teledaemon import links
from teledaemon.links import Links
from telewire.errors import BadRequest, NotFound, TeleError

log = logging.getLogger(__name__)

LOOK_EACH = 0.5
_LINK = re.compile(r"te[0-9a-f]{13}")
_ID = re.compile(r"[0-9a-zA-Z_.-]{1,128}")


@dataclass
class Endpoint:
    """A container on a network: the link here, and the addresses Docker gave it."""

    interface: str
    addresses: list[str] = field(default_factory=list)


@dataclass
class Network:
    """One Docker network."""

    id: str
    bridge: str
    subnets: list[dict[str, str]]
    mtu: int | None
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what the control API tells of it."""
        return {
            "id": self.id,
            "bridge": self.bridge,
            "subnets": self.subnets,
            "endpoints": {
                key: {"interface": e.interface, "addresses": e.addresses} for key, e in self.endpoints.items()
            },
        }


class Networks:
    """All networks. ``serve`` and ``unserve`` are told the gateway addresses, for DNS; ``gone`` the addresses of endpoints that vanish."""

    def __init__(
        self,
        links_: Links,
        serve: Callable[[str], Awaitable[None]],
        unserve: Callable[[str], None],
        gone: Callable[[list[str]], None],
    ) -> None:
        self._links, self._serve, self._unserve, self._gone = links_, serve, unserve, gone
        self.networks: dict[str, Network] = {}
        self._turn = asyncio.Lock()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="networks")

    def close(self) -> None:
        """Stop watching; what is in the namespace goes with it."""
        self._task.cancel()

    async def put(self, key: str, body: dict[str, Any]) -> None:
        """Make a network, or see that it is whole. BadRequest if the body is malformed."""
        subnets, mtu = _subnets(key, body)
        async with self._turn:
            bridge = f"tb{_short(key)}"
            await self._links.add_bridge(bridge, mtu)
            for subnet in subnets:
                gateway = ipaddress.ip_interface(subnet["gateway"])
                await self._links.add_address(bridge, str(gateway.ip), gateway.network.prefixlen)
                await self._serve(str(gateway.ip))
            known = self.networks.get(key)
            self.networks[key] = Network(key, bridge, subnets, mtu, known.endpoints if known else {})

    async def remove(self, key: str) -> None:
        """Remove a network; no error if it is gone."""
        async with self._turn:
            network = self.networks.pop(key, None)
            if network is None:
                return
            for subnet in network.subnets:
                self._unserve(str(ipaddress.ip_interface(subnet["gateway"]).ip))
            for endpoint in network.endpoints.values():
                self._gone(endpoint.addresses)
            await self._links.remove(network.bridge)

    async def put_endpoint(self, key: str, endpoint: str, body: dict[str, Any]) -> None:
        """Put a link that Teleroute has made on the network's bridge. NotFound if network or link are not there."""
        network = self.networks.get(key)
        if network is None:
            raise NotFound(f"the daemon knows no network {key}; put it first")
        interface, addresses = str(body.get("interface") or ""), body.get("addresses") or []
        if not _LINK.fullmatch(interface) or not isinstance(addresses, list):
            raise BadRequest("an endpoint needs `interface` (te and 13 hex digits) and `addresses` (a list)")
        try:
            plain = [str(ipaddress.ip_interface(str(address)).ip) for address in addresses]
        except ValueError as error:
            raise BadRequest(f"an endpoint's address is malformed: {error}") from None
        await self._links.enslave(interface, network.bridge)
        network.endpoints[endpoint] = Endpoint(interface, plain)

    async def remove_endpoint(self, key: str, endpoint: str) -> None:
        """Forget an endpoint and remove its link; no error if it is gone."""
        network = self.networks.get(key)
        found = network.endpoints.pop(endpoint, None) if network else None
        if found is not None:
            self._gone(found.addresses)
            await self._links.remove(found.interface)

    def has_address(self, address: str) -> bool:
        """Whether an endpoint has this address and its link is there."""
        return any(
            address in endpoint.addresses and links.exists(endpoint.interface)
            for network in self.networks.values()
            for endpoint in network.endpoints.values()
        )

    async def _watch(self) -> None:
        """Notice links that vanish without a word: the container, its engine or the plugin died."""
        while True:
            await asyncio.sleep(LOOK_EACH)
            for network in self.networks.values():
                for key, endpoint in list(network.endpoints.items()):
                    if not links.exists(endpoint.interface):
                        del network.endpoints[key]
                        with contextlib.suppress(TeleError):
                            self._gone(endpoint.addresses)


def _short(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()[:13]


def _subnets(key: str, body: dict[str, Any]) -> tuple[list[dict[str, str]], int | None]:
    if not _ID.fullmatch(key):
        raise BadRequest(f"{key!r} is no network ID")
    subnets, mtu = body.get("subnets"), body.get("mtu")
    if not isinstance(subnets, list) or not subnets:
        raise BadRequest("a network needs `subnets`, a list of objects with `pool` and `gateway`")
    found = []
    for subnet in subnets:
        try:
            gateway = ipaddress.ip_interface(str(subnet["gateway"]))
            pool = ipaddress.ip_network(str(subnet["pool"]), strict=False)
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"a subnet of the network is malformed: {error}") from None
        if gateway.ip not in pool:
            raise BadRequest(f"the gateway {gateway} is not in its pool {pool}")
        found.append({"pool": str(pool), "gateway": str(gateway)})
    if mtu is not None and (not isinstance(mtu, int) or not 576 <= mtu <= 65535):
        raise BadRequest(f"the MTU {mtu!r} is no number from 576 to 65535")
    return found, mtu
