"""Make the connection's Docker network: Teleroute's, on a subnet that is clear of everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator import daemon, subnets
from orchestrator.engine import Engine
from orchestrator.model import Status
from telewire import names
from telewire.errors import Conflict, NotFound, TeleError


def require_name(engine: Engine, connection: str) -> None:
    """Check that no foreign network bears the connection's name.

    :raises Conflict: one does
    """
    for network in engine.all_networks():
        if network["Name"] == connection and (network.get("Labels") or {}).get(names.LABEL_CONNECTION) != connection:
            raise Conflict(f"there is a Docker network {connection} that is not ours; choose another --name")


def create(engine: Engine, connection: str, status: Status, inspected: Mapping[str, Any], token: str) -> str:
    """Create the network and return its ID.

    :param status: of the daemon, which is connected: the cluster's subnets are avoided
    :param inspected: the daemon's container
    """
    from docker.types import IPAMConfig, IPAMPool

    cluster = subnets.parse([*status["subnets"]["service"], *status["subnets"]["pod"]])
    taken = [*_docker_subnets(engine), *subnets.routes_here(), *cluster]
    pools6 = []
    if any(network.version == 6 for network in cluster):
        six = subnets.unique_local()
        pools6.append(IPAMPool(subnet=str(six), gateway=str(six[1])))
    for _ in range(4):
        four = subnets.choose(taken)
        try:
            with engine.told(f"creating the network {connection}"):
                created = engine.api.create_network(
                    connection,
                    driver=names.TELEROUTE_PLUGIN,
                    options={"daemon": f"{daemon.address(inspected)}:{names.CONTROL_PORT}", "token": token},
                    ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(four), gateway=str(four[1])), *pools6]),
                    labels=daemon.labels(connection, names.ROLE_NETWORK, _carried(inspected)),
                    enable_ipv6=bool(pools6),
                )
            return str(created["Id"])
        except TeleError as error:
            if "overlap" not in str(error):
                raise
            taken.append(four)
            last = error
    raise last


def remove(engine: Engine, network: str) -> None:
    """Disconnect everything from a network and remove it; no error if it is gone."""
    try:
        with engine.told(f"inspecting the network {network}"):
            attached = engine.api.inspect_network(network).get("Containers") or {}
        for container in attached:
            try:
                with engine.told(f"disconnecting a container from the network {network}"):
                    engine.api.disconnect_container_from_network(container, network, force=True)
            except NotFound:
                continue
        with engine.told(f"removing the network {network}"):
            engine.api.remove_network(network)
    except NotFound:
        return


def gateway(engine: Engine, connection: str) -> str:
    """Return the IPv4 gateway of a connection's network: the daemon, which serves DNS there.

    :raises NotFound: the network is gone
    """
    for network in engine.networks(connection):
        for config in network["IPAM"]["Config"] or []:
            if ":" not in config.get("Gateway", ":"):
                return str(config["Gateway"]).split("/")[0]
    raise NotFound(
        f"the network of connection {connection} is gone; `telepresence connect --docker` with the same options mends it"
    )


def _carried(inspected: Mapping[str, Any]) -> dict[str, str]:
    """Return the daemon's labels that the network bears too, so that the cluster can be put right without the daemon."""
    labels = inspected["Config"]["Labels"]
    keys = (names.LABEL_CONTEXT, names.LABEL_NAMESPACE, names.LABEL_KUBECONFIG)
    return {key: labels[key] for key in keys if key in labels}


def _docker_subnets(engine: Engine) -> list[subnets.Network]:
    """Return the subnets of all of Docker's networks."""
    return subnets.parse(
        config.get("Subnet", "")
        for network in engine.all_networks()
        for config in (network.get("IPAM") or {}).get("Config") or []
    )
