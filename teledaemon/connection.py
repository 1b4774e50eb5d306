"""A connection: everything that one daemon does for one context and namespace, from connect to quit."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from teledaemon import agents, claims, gateway, planning, replacement, subnets, template, workloads
from teledaemon.claims import Holder
from teledaemon.clusterdns import ClusterDns
from teledaemon.engagement import Engagement, Means
from teledaemon.gateway import Gateway
from teledaemon.kube import Cluster
from teledaemon.links import Links
from teledaemon.nameserver import NameServer, Resolver, local_nameservers
from teledaemon.networks import Networks
from teledaemon.tunnel import stamp
from teledaemon.vif import Vif
from telewire import __version__
from telewire.errors import BadRequest, Conflict, NotFound, TeleError
from telewire.session import Session, SessionLost
from telewire.stream import Stream

log = logging.getLogger(__name__)

HANDLER_GRACE = 2.0
"""Seconds between the end of a handler's link and the end of its engagement."""


class NotConnected(TeleError):
    """There is no connection to the cluster."""

    code = "not-connected"


@dataclass(frozen=True)
class Wanted:
    """The body of ``POST /v1/connect``."""

    name: str
    client_id: str
    owner: str
    namespace: str
    agent_image: str
    agent_pull_policy: str
    recover_only: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Wanted:
        """Return what ``body`` asks for. BadRequest if something is missing."""
        owner = body.get("owner") or {}
        try:
            found = cls(
                str(body["name"]),
                str(body["client_id"]),
                f"{owner.get('user', '?')}@{owner.get('host', '?')}",
                str(body["namespace"]),
                str(body["agent_image"]),
                str(body.get("agent_pull_policy") or "IfNotPresent"),
                bool(body.get("recover_only")),
            )
        except KeyError as error:
            raise BadRequest(f"the request to connect lacks {error}") from None
        if found.agent_pull_policy not in ("Always", "IfNotPresent", "Never"):
            raise BadRequest(f"{found.agent_pull_policy!r} is no pull policy; use Always, IfNotPresent or Never")
        return found


class Connection:
    """All of the daemon but its HTTP face."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._turn = asyncio.Lock()
        self.state, self.since, self.error = "idle", stamp(), ""
        self.wanted: Wanted | None = None
        self.cluster: Cluster | None = None
        self.gateway: Gateway | None = None
        self._vif: Vif | None = None
        self._services: list[subnets.Network] = []
        self._pods: list[subnets.Network] = []
        self._dns: dict[str, Any] = {"search": [], "nameservers": []}
        self._cluster_dns = ClusterDns(self.session)
        self.resolver = Resolver(self._cluster_dns, local_nameservers())
        self.nameserver = NameServer(self.resolver)
        self.networks = Networks(links, self.nameserver.serve, self.nameserver.unserve, self._gone)
        self.engagements: dict[str, Engagement] = {}
        self._failed: dict[str, Engagement] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def session(self) -> Session:
        """Return the session to dial through. SessionLost if there is none."""
        if self.gateway is None:
            raise SessionLost("the daemon is not connected to a cluster")
        return self.gateway.session

    def _turn_to(self, state: str, error: str = "") -> None:
        if state != self.state:
            self.state, self.since = state, stamp()
            log.info("%s%s", state, f": {error}" if error else "")
        self.error = error

    # Connecting.

    async def connect(self, body: Mapping[str, Any]) -> None:
        """Connect, or only put back what was left in the cluster. A TeleError leaves nothing there."""
        wanted = Wanted.of(body)
        async with self._turn:
            if self.state not in ("idle", "failed"):
                raise Conflict(f"this daemon is connected already, as {self.wanted.name if self.wanted else '?'}")
            if not isinstance(body.get("kubeconfig"), Mapping):
                raise BadRequest("the request to connect lacks the kubeconfig")
            cluster = Cluster(body["kubeconfig"])
            self.cluster, self.wanted = cluster, wanted
            self._turn_to("connecting")
            try:
                await cluster.open()
                if wanted.recover_only:
                    await self._recover(cluster, wanted, None)
                    await self._forget("idle")
                    return
                await self._connect(cluster, wanted)
            except BaseException as error:
                await asyncio.shield(self._undo_connect(str(error)))
                raise
            self._turn_to("connected")

    async def _connect(self, cluster: Cluster, wanted: Wanted) -> None:
        made = Gateway(
            cluster, wanted.namespace, wanted.client_id, wanted.owner, wanted.agent_image, wanted.agent_pull_policy
        )
        self.gateway = made
        starting = asyncio.ensure_future(made.start())
        finding = asyncio.ensure_future(subnets.find(cluster, wanted.namespace))
        recovering = asyncio.ensure_future(self._recover(cluster, wanted, made.job))
        try:
            session, (self._services, self._pods), _ = await asyncio.gather(starting, finding, recovering)
        except BaseException:
            for task in (starting, finding, recovering):
                task.cancel()
            await asyncio.gather(starting, finding, recovering, return_exceptions=True)
            raise
        self._take_hello(session)
        self.resolver.forget()
        await self._reach_server(cluster)
        self._vif = Vif(self.session, self._links)
        await self._vif.start()
        await self._vif.route(subnets.routes(self._services, self._pods))

    async def _recover(self, cluster: Cluster, wanted: Wanted, keep: str | None) -> None:
        """Put back what this client has left in the cluster."""
        await asyncio.gather(
            replacement.recover(cluster, wanted.namespace, wanted.client_id),
            template.recover(cluster, wanted.namespace, wanted.client_id),
            claims.remove_all(cluster, wanted.namespace, wanted.client_id),
            agents.end_abandoned(cluster, wanted.namespace, wanted.client_id),
            gateway.remove_jobs(cluster, wanted.namespace, wanted.client_id, keep),
        )

    def _take_hello(self, session: Session) -> None:
        search = [str(domain) for domain in session.hello.get("search") or []]
        self._dns = {"search": search, "nameservers": session.hello.get("nameservers") or []}
        self.resolver.search, self.resolver.ndots = search, int(session.hello.get("ndots") or 1)

    async def _reach_server(self, cluster: Cluster) -> None:
        """Keep the way to the API server out of the VIF if its address lies in one of the cluster's subnets."""
        host = urlsplit(cluster.server).hostname or ""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        routes = await self._links.default_routes()
        if routes and any(address in n for n in (*self._services, *self._pods) if n.version == address.version):
            local = [ipaddress.ip_network((a, p), strict=False) for a, p, _ in await self._links.addresses()]
            if not any(n.version == address.version and address in n for n in local):
                via, device = routes[0]
                await self._links.add_route(device, f"{address}/{address.max_prefixlen}", via)

    async def _undo_connect(self, error: str) -> None:
        made, self.gateway = self.gateway, None
        if self._vif is not None:
            self._vif.close()
            self._vif = None
        if made is not None:
            try:
                await made.close()
            except TeleError as failure:
                log.warning("the gateway's job %s stays: %s", made.job, failure)
        await self._forget("failed", error)

    async def _forget(self, state: str, error: str = "") -> None:
        cluster, self.cluster = self.cluster, None
        if cluster is not None:
            await cluster.close()
        self._turn_to(state, error)

    async def quit(self) -> None:
        """End engagements, delete the gateway. TeleError with all that could not be put back."""
        failures: list[str] = []
        # While it connects, quitting waits for the end of that: what is half made is known only then.
        async with self._turn:
            if self.cluster is None:
                return
            stopping = list(self.engagements.values())
            self.engagements.clear()
            self._failed.clear()
            for outcome in await asyncio.gather(*(e.stop() for e in stopping), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    failures.append(str(outcome))
            if self._vif is not None:
                self._vif.close()
                self._vif = None
            made, self.gateway = self.gateway, None
            if made is not None:
                try:
                    await made.close()
                    if self.wanted is not None:
                        await claims.remove_all(self.cluster, self.wanted.namespace, self.wanted.client_id)
                except TeleError as error:
                    failures.append(str(error))
            await self._forget("idle")
        if failures:
            raise TeleError("; ".join(failures))

    async def close(self) -> None:
        """Quit with what is left of the daemon's life, then let go of sockets and links."""
        try:
            await self.quit()
        except TeleError as error:
            log.warning("not everything is put back in the cluster: %s", error)
        self._cluster_dns.close()
        self.nameserver.close()
        self.networks.close()
        for task in list(self._tasks):
            task.cancel()

    # Telling.

    def _up(self) -> tuple[Cluster, Wanted]:
        if self.cluster is None or self.wanted is None or self.state != "connected":
            raise NotConnected("the daemon is not connected to a cluster; `telepresence connect --docker` connects")
        return self.cluster, self.wanted

    def routes(self) -> list[str]:
        """Return the cluster's subnets, as containers have to route them."""
        return [str(network) for network in subnets.routes(self._services, self._pods)] if self._vif else []

    def status(self) -> dict[str, Any]:
        """Return what ``GET /v1/status`` tells."""
        tunnel = self.gateway.tunnel if self.gateway is not None else None
        state, error = self.state, self.error
        if state == "connected" and (tunnel is None or tunnel.state != "connected"):
            state, error = "reconnecting", (tunnel.error if tunnel is not None else None) or "the gateway's pod is gone"
        refused = self.cluster is not None and self.cluster.refused.is_set()
        wanted = self.wanted
        return {
            "version": __version__,
            "name": wanted.name if wanted else "",
            "state": state,
            "since": tunnel.since if tunnel is not None and state == "reconnecting" else self.since,
            "error": ("the API server does not take the credentials; log in again" if refused else error) or None,
            "context": self.cluster.context if self.cluster else "",
            "server": self.cluster.server if self.cluster else "",
            "namespace": wanted.namespace if wanted else "",
            "client_id": wanted.client_id if wanted else "",
            "gateway": self.gateway.describe() if self.gateway is not None else None,
            "subnets": {"service": [str(n) for n in self._services], "pod": [str(n) for n in self._pods]},
            "dns": self._dns,
            "networks": [network.describe() for network in self.networks.networks.values()],
            "tunnels": [
                *([tunnel.describe()] if tunnel is not None else []),
                *(one for engagement in self.engagements.values() for one in engagement.tunnels()),
            ],
            "engagements": [engagement.describe() for engagement in self.engagements.values()],
        }

    async def list_workloads(self) -> list[dict[str, Any]]:
        """Return what ``GET /v1/workloads`` tells. NotConnected, Forbidden."""
        cluster, wanted = self._up()
        engaged: dict[tuple[str, str], list[str]] = {}
        for one in self.engagements.values():
            engaged.setdefault((one.workload.kind, one.workload.name), []).append(one.name)
        found = await workloads.list_all(cluster, wanted.namespace)
        return [workloads.describe(one, engaged.get((one.kind, one.name), [])) for one in found]

    # Engagements.

    def engagement(self, key: str) -> Engagement:
        """Return an engagement by its ID. NotFound if there is none."""
        found = self.engagements.get(key)
        if found is None:
            raise NotFound(f"there is no engagement {key}; it has ended")
        return found

    async def engage(self, body: Mapping[str, Any]) -> Engagement:
        """Start an engagement; return it when its environment and mounts are known. A TeleError leaves the cluster as it was."""
        cluster, wanted = self._up()
        plan = await planning.plan(cluster, wanted.namespace, body)
        holder = Holder(wanted.client_id, wanted.owner, wanted.name)
        means = Means(
            cluster,
            holder,
            wanted.agent_image,
            wanted.agent_pull_policy,
            self._address_of,
            self._gateway_address,
            self._slots,
            self._over,
        )
        made = Engagement(plan, means)
        self._not_twice(made)
        self.engagements[made.id] = made
        try:
            await made.start()
        except BaseException:
            self.engagements.pop(made.id, None)
            raise
        self._spawn(self._await_active(made))
        return made

    async def _await_active(self, made: Engagement) -> None:
        """Keep an engagement whose start fails after all, with the reason, for whoever has begun it."""
        try:
            await made.until_active()
        except TeleError as error:
            log.warning("engagement %s: %s", made.name, error)
            if self.engagements.pop(made.id, None) is not None:
                self._failed[made.id] = made

    async def until_active(self, key: str, seconds: float) -> Engagement:
        """Return an engagement when it is active, or as it is after ``seconds``. The TeleError by which its start has failed."""
        made = self._failed.get(key) or self.engagement(key)
        await made.until_active(seconds)
        return made

    def _not_twice(self, made: Engagement) -> None:
        for one in self._others(made.workload):
            if both := one.claimed & made.claimed:
                what = sorted(both)[0]
                raise Conflict(
                    f"{made.workload.name} is engaged already: {one.plan.kind} of {what} by this connection since "
                    f"{one.since}; `telepresence leave {one.name}` first"
                )

    def _others(self, workload: workloads.Workload) -> list[Engagement]:
        key = (workload.kind, workload.name)
        return [one for one in self.engagements.values() if (one.workload.kind, one.workload.name) == key]

    def _slots(self, workload: workloads.Workload) -> set[int]:
        return {one.slot for one in self._others(workload)}

    async def _address_of(self, name: str) -> str:
        """Return an address of a name in the cluster. NotFound if it has none."""
        for address in await self.resolver.addresses(name):
            return address
        raise NotFound(f"there is no address of {name!r}; check --address")

    def _gateway_address(self) -> str:
        for network in self.networks.networks.values():
            for subnet in network.subnets:
                return str(ipaddress.ip_interface(subnet["gateway"]).ip)
        raise BadRequest("--to-pod needs the connection's Docker network, and there is none")

    def _over(self, engagement: Engagement, reason: str) -> None:
        log.warning("engagement %s ends: %s", engagement.name, reason)
        self._spawn(self._end(engagement))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def disengage(self, key: str) -> None:
        """End an engagement; return when the original is back. NotFound if there is none."""
        if self._failed.pop(key, None) is not None:
            return
        made = self.engagement(key)
        del self.engagements[key]
        await made.stop()

    async def export(self, key: str) -> Stream:
        """Return a stream of SFTP packets with an engagement's remote files."""
        return await self.engagement(key).export()

    def _gone(self, addresses: list[str]) -> None:
        """The container with these addresses has left its network: its engagement ends, unless it comes back at once."""
        for engagement in list(self.engagements.values()):
            if engagement.handler.address in addresses:
                self._spawn(self._end_without_handler(engagement))

    async def _end_without_handler(self, engagement: Engagement) -> None:
        address = engagement.handler.address
        await asyncio.sleep(HANDLER_GRACE)
        if engagement.handler.address == address and not self.networks.has_address(address):
            log.info("engagement %s: its handler is gone", engagement.name)
            await self._end(engagement)

    async def _end(self, engagement: Engagement) -> None:
        if engagement.id in self.engagements:
            try:
                await self.disengage(engagement.id)
            except TeleError as error:
                log.warning("engagement %s: %s", engagement.name, error)
