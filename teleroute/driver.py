"""The driver: Docker's calls, what is remembered of them, and what is done about them.

dockerd never sends CreateNetwork again, so everything is on the disk before it is answered, and the daemon's side is made anew
whenever a container joins. What is unknown is deleted successfully: dockerd would keep its own entry for ever otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from teleroute import join
from teleroute.daemonclient import DaemonClient
from teleroute.links import Links
from teleroute.options import Network, parse
from telewire.errors import Conflict, NotFound, TeleError, Unavailable
from telewire.plugin import Handler
from telewire.state import StateFile

log = logging.getLogger(__name__)

Body = dict[str, Any]
DEADLINES = {"NetworkDriver.CreateNetwork": 10.0, "NetworkDriver.Join": 15.0, "NetworkDriver.DeleteEndpoint": 10.0}
STARTING = 10.0
"""Seconds from this process's start in which Join waits for the daemon of an older network: an engine that comes up starts all its
containers at once."""
FORGETTING = 1.0
"""Seconds for the daemon to forget an endpoint, whose link it sees to be gone anyhow: an engine that comes up has its old endpoints
deleted one after the other, before their daemon runs."""


class Driver:
    """Docker's network driver protocol over networks of daemons."""

    def __init__(self, state: StateFile, daemon: DaemonClient, links: Links) -> None:
        self._state, self._daemon, self._links = state, daemon, links
        saved = state.load()
        self._networks = {key: Network.from_json(value) for key, value in (saved.get("networks") or {}).items()}
        self._endpoints: dict[str, dict[str, Any]] = saved.get("endpoints") or {}
        self._older, self._patient_until = set(self._networks), time.monotonic() + STARTING

    def methods(self) -> Mapping[str, Handler]:
        """Return the calls by their names."""
        return {
            "NetworkDriver.GetCapabilities": self._capabilities,
            "NetworkDriver.AllocateNetwork": self._nothing,
            "NetworkDriver.FreeNetwork": self._nothing,
            "NetworkDriver.CreateNetwork": self.create_network,
            "NetworkDriver.DeleteNetwork": self.delete_network,
            "NetworkDriver.CreateEndpoint": self.create_endpoint,
            "NetworkDriver.EndpointOperInfo": self._operational_information,
            "NetworkDriver.DeleteEndpoint": self.delete_endpoint,
            "NetworkDriver.Join": self.join,
            "NetworkDriver.Leave": self._nothing,
            "NetworkDriver.DiscoverNew": self._nothing,
            "NetworkDriver.DiscoverDelete": self._nothing,
            "NetworkDriver.ProgramExternalConnectivity": self._nothing,
            "NetworkDriver.RevokeExternalConnectivity": self._nothing,
        }

    def _save(self) -> None:
        networks = {key: network.as_json() for key, network in self._networks.items()}
        self._state.save({"networks": networks, "endpoints": self._endpoints})

    async def _capabilities(self, _: Body) -> Body:
        return {"Scope": "local", "ConnectivityScope": "local"}

    async def _nothing(self, _: Body) -> Body:
        return {}

    async def create_network(self, body: Body) -> Body:
        """Check the options, have the daemon make its side, remember."""
        network = parse(body)
        await self._daemon.put_network(network)
        self._networks[network.id] = network
        try:
            self._save()
        except OSError:
            del self._networks[network.id]
            await self._daemon.delete_network(network)
            raise
        log.info("network %s: daemon %s", network.id[:12], network.daemon)
        return {}

    async def delete_network(self, body: Body) -> Body:
        """Forget a network; a daemon that is gone has nothing left to remove."""
        network = self._networks.pop(str(body["NetworkID"]), None)
        if network is None:
            return {}
        forgotten = [key for key, value in self._endpoints.items() if value["network"] == network.id]
        for key in forgotten:  # their containers were removed while nobody could tell us
            del self._endpoints[key]
        self._save()
        for key in forgotten:
            await self._links.remove(join.link_names(key)[0])
        try:
            await self._daemon.delete_network(network)
        except TeleError as error:
            log.info("network %s: %s", network.id[:12], error)
        return {}

    async def create_endpoint(self, body: Body) -> Body:
        """Remember an endpoint's addresses; give it a hardware address if Docker leaves that to us."""
        network, interface = self._network(body), body.get("Interface") or {}
        addresses = join.addresses(interface)
        if not addresses:
            raise TeleError("Docker gave the endpoint no address; use the default --ipam-driver")
        mac = str(interface.get("MacAddress") or "")
        chosen = "" if mac else join.mac_address(addresses[0])
        self._endpoints[str(body["EndpointID"])] = {"network": network.id, "addresses": addresses, "mac": mac or chosen}
        self._save()
        return {"Interface": {"MacAddress": chosen}} if chosen else {"Interface": {}}

    async def delete_endpoint(self, body: Body) -> Body:
        """Remove an endpoint's link, which Docker has given back, and have the daemon forget it."""
        key = str(body["EndpointID"])
        await self._links.remove(join.link_names(key)[0])
        found = self._endpoints.pop(key, None)
        if found is None:
            return {}
        self._save()
        network = self._networks.get(found["network"])
        if network is not None:
            try:
                async with asyncio.timeout(FORGETTING):
                    await self._daemon.delete_endpoint(network, key)
            except TimeoutError:
                log.info("endpoint %s: no answer from the daemon at %s in time", key[:12], network.daemon)
            except TeleError as error:
                log.info("endpoint %s: %s", key[:12], error)
        return {}

    async def _operational_information(self, _: Body) -> Body:
        return {"Value": {}}

    async def join(self, body: Body) -> Body:
        """Make the link between container and daemon; say how the container routes."""
        network, key = self._network(body), str(body["EndpointID"])
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            raise NotFound(f"endpoint {key[:12]} is unknown; start the container again")
        here, there = join.link_names(key)
        namespace = await self._reach(network)
        wanted = (here, there, namespace, endpoint["mac"], network.mtu)
        try:
            try:
                await self._links.create(*wanted)
            except Conflict:
                await self._daemon.delete_endpoint(network, key)
                await self._links.create(*wanted)
            routes = await self._daemon.put_endpoint(network, key, there, endpoint["addresses"])
        except BaseException:
            await self._links.remove(here)
            raise
        return join.answer(network, here, routes)

    async def _reach(self, network: Network) -> int:
        """Have the daemon make its side; return its network namespace's inode."""
        while True:
            try:
                return (await self._daemon.put_network(network))[0]
            except Unavailable:
                if network.id not in self._older or time.monotonic() > self._patient_until:
                    raise
            await asyncio.sleep(0.2)

    def _network(self, body: Body) -> Network:
        found = self._networks.get(str(body["NetworkID"]))
        if found is None:
            raise NotFound(
                f"network {str(body['NetworkID'])[:12]} is unknown to Teleroute (its state was lost); "
                "`docker network rm` it and create it again"
            )
        return found
