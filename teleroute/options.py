"""What ``docker network create`` asks for, checked. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from telewire import names
from telewire.errors import BadRequest

GENERIC = "com.docker.network.generic"
MTU_OPTION = "com.docker.network.driver.mtu"
GATEWAYS = ("none", "daemon")
SMALLEST_MTU, LARGEST_MTU = 576, 65535


@dataclass(frozen=True)
class Subnet:
    """One pool and, in it, the daemon's address with the pool's prefix length."""

    pool: str
    gateway: str

    @property
    def version(self) -> int:
        """The IP version."""
        return ipaddress.ip_interface(self.gateway).version

    @property
    def next_hop(self) -> str:
        """The daemon's address alone."""
        return str(ipaddress.ip_interface(self.gateway).ip)


@dataclass(frozen=True)
class Network:
    """A Docker network of ours.

    :ivar daemon: ``ADDRESS:PORT`` of the control API
    :ivar gateway: ``daemon`` if containers get their default route there, else ``none``
    """

    id: str
    daemon: str
    token: str
    gateway: str
    mtu: int | None
    subnets: tuple[Subnet, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what the state file keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Network:
        """Return what :meth:`as_json` gave."""
        fields = {**data, "subnets": tuple(Subnet(**subnet) for subnet in data["subnets"])}
        return cls(**fields)


def _daemon(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(names.CONTROL_PORT)
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError(port)
    except ValueError:
        raise BadRequest(
            f"option daemon={text!r} is no ADDRESS:PORT; give where the daemon's control API listens"
        ) from None
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


def _mtu(text: str) -> int:
    if not text.isdecimal() or not SMALLEST_MTU <= int(text) <= LARGEST_MTU:
        raise BadRequest(f"option mtu={text!r} is no number from {SMALLEST_MTU} to {LARGEST_MTU}")
    return int(text)


def _subnets(data: list[Mapping[str, Any]]) -> list[Subnet]:
    found = []
    for entry in data:
        try:
            pool = ipaddress.ip_network(str(entry.get("Pool") or ""))
            gateway = ipaddress.ip_interface(str(entry.get("Gateway") or ""))
        except ValueError:
            raise BadRequest(
                f"the network has no subnet with a gateway (pool {entry.get('Pool')!r}, gateway {entry.get('Gateway')!r}): "
                "leave --ipam-driver at its default, or give --subnet and --gateway"
            ) from None
        found.append(Subnet(str(pool), f"{gateway.ip}/{pool.prefixlen}"))
    return found


def parse(request: Mapping[str, Any]) -> Network:
    """Return the network that a CreateNetwork request describes. BadRequest says what is wrong with it."""
    generic = (request.get("Options") or {}).get(GENERIC) or {}
    given = {str(key): str(value) for key, value in generic.items()}
    mtu = given.pop(MTU_OPTION, "")
    known = {key: given.pop(key, "") for key in ("daemon", "token", "gateway", "mtu")}
    if given:
        unknown = ", ".join(repr(key) for key in sorted(given))
        raise BadRequest(
            f"unknown option {unknown}; Teleroute knows daemon, token, gateway, mtu (docker network create -o)"
        )
    for key in ("daemon", "token"):
        if not known[key]:
            raise BadRequest(
                f"option {key} is missing: -o daemon=ADDRESS:PORT -o token=TOKEN name the daemon whose network this is; "
                "`telepresence connect --docker` makes one with its network"
            )
    if not known["token"].isascii() or not known["token"].isprintable() or " " in known["token"]:
        raise BadRequest("option token has characters that no token has; give the daemon's TELEPRESENCE_TOKEN")
    gateway = known["gateway"] or "none"
    if gateway not in GATEWAYS:
        raise BadRequest(f"option gateway={gateway!r} is unknown; use none or daemon")
    subnets = _subnets([*(request.get("IPv4Data") or []), *(request.get("IPv6Data") or [])])
    if not subnets:
        raise BadRequest("the network has no subnet; give --subnet, or leave --ipv4 and --ipv6 at their defaults")
    text = known["mtu"] or mtu
    return Network(
        str(request["NetworkID"]),
        _daemon(known["daemon"]),
        known["token"],
        gateway,
        _mtu(text) if text else None,
        tuple(subnets),
    )
