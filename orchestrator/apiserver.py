"""Find the way from the daemon's container to an API server that the user's machine knows by a loopback address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from telewire.errors import BadRequest

HOST_ALIAS = "host.docker.internal"


@dataclass(frozen=True)
class Route:
    """How the daemon reaches the API server.

    :ivar network: the Docker network that the daemon's container must be on besides the default one
    :ivar host_gateway: whether the container needs ``host.docker.internal``
    """

    cluster: dict[str, Any]
    network: str | None = None
    host_gateway: bool = False


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means the machine itself; k3d writes 0.0.0.0."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def find(
    cluster: Mapping[str, Any], containers: Iterable[Mapping[str, Any]], networks: Iterable[Mapping[str, Any]]
) -> Route:
    """Return the way to the API server of a flattened kubeconfig cluster.

    :param containers: running containers as the engine lists them
    :param networks: networks as the engine lists them
    """
    key = "proxy-url" if cluster.get("proxy-url") else "server"
    url = urlsplit(str(cluster[key]))
    try:
        host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    except ValueError:
        host = ""
        port = 0
    if url.scheme not in ("https", "http", "socks5") or not host:
        raise BadRequest(f"the kubeconfig's `{key}` {cluster[key]!r} is no URL; mend it")
    if not is_loopback(host):
        return Route(dict(cluster), _network_of(host, networks))
    changed = dict(cluster)
    if key == "server" and url.scheme == "https":
        changed.setdefault("tls-server-name", host)
    found = _publisher(port, containers)
    if found is None:
        changed[key] = urlunsplit(url._replace(netloc=f"{HOST_ALIAS}:{port}"))
        return Route(changed, None, True)
    address, private, network = found
    netloc = f"[{address}]:{private}" if ":" in address else f"{address}:{private}"
    changed[key] = urlunsplit(url._replace(netloc=netloc))
    return Route(changed, None if network == "bridge" else network)


def _publisher(port: int, containers: Iterable[Mapping[str, Any]]) -> tuple[str, int, str] | None:
    """Return address, private port and network of the container that publishes a TCP port of this machine."""
    for container in containers:
        for published in container.get("Ports") or []:
            if published.get("PublicPort") != port or published.get("Type") != "tcp":
                continue
            if published.get("IP") and not is_loopback(str(published["IP"])):
                continue
            attached = (container.get("NetworkSettings") or {}).get("Networks") or {}
            for name in sorted(attached, key=lambda name: name != "bridge"):
                address = attached[name].get("IPAddress") or attached[name].get("GlobalIPv6Address")
                if address:
                    return str(address), int(published["PrivatePort"]), str(name)
    return None


def _network_of(host: str, networks: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the Docker network in whose subnet an address lies: containers of other networks cannot reach it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    for network in networks:
        if network.get("Name") == "bridge":
            continue
        for config in (network.get("IPAM") or {}).get("Config") or []:
            if config.get("Subnet") and address in ipaddress.ip_network(config["Subnet"], strict=False):
                return str(network["Name"])
    return None
