"""The agents of one engagement, a tunnel to each: in which pods they are, whether they live, and new ones for those that died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from teledaemon import ephemeral, podstate
from teledaemon.claims import Holder
from teledaemon.kube import Cluster, Object
from teledaemon.tunnel import Tunnel
from teledaemon.workloads import Workload
from telewire import names
from telewire.errors import Conflict, NotFound, TeleError, Unavailable
from telewire.messages import request
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that a container may be held up before it counts."""
YOUNG = 10.0
"""Seconds: an agent that ends sooner than that is put in again only after a pause, longer each time."""
LONGEST_PAUSE = 30.0
GOODBYE = 2.0
LAST_ANSWERS = 1.0
LOOK_EACH = 0.02


@dataclass(frozen=True)
class Site:
    """What all agents of an engagement have in common."""

    cluster: Cluster
    workload: Workload
    container: str
    holder: Holder
    image: str
    pull_policy: str
    token: str
    fail: Callable[[TeleError], None]
    """Told what makes the engagement hopeless, while it is being made."""
    spawn: Callable[[Coroutine[Any, Any, None]], None]

    def no_image(self, pod: str, reason: str, text: str) -> Unavailable:
        """Return the error for an agent that cannot run."""
        return Unavailable(
            f"the agent's image {self.image} cannot run in pod {pod}: {reason} {text}; "
            "set TELEPRESENCE_AGENT_IMAGE or TELEPRESENCE_REGISTRY to where the cluster finds it"
        )


@dataclass
class Agent:
    """One agent: in which container of which pod."""

    pod: str
    container: str
    tunnel: Tunnel
    essential: bool = True
    """Whether the engagement waits for it: the pod was ready when it was put in."""
    born: float = field(default_factory=time.monotonic)
    suspect_since: float | None = None


class Agents:
    """The base: how they get into a pod is told by :meth:`see`."""

    def __init__(
        self,
        site: Site,
        on_session: Callable[[Session], Awaitable[None]] | None = None,
        on_stream: Callable[[Stream], None] | None = None,
    ) -> None:
        self.site = site
        self.there: dict[str, Agent] = {}
        self._on_session, self._on_stream = on_session, on_stream

    async def see(self, pod: Object) -> Object:
        """A pod of the workload is there, or has changed; return it as it is now. TeleError if no agent can be had in it."""
        raise NotImplementedError

    async def put_back(self) -> None:
        """Undo what was done to the cluster. TeleError if that is refused."""

    def tunnel(self, pod: str, port: int = names.AGENT_PORT) -> Tunnel:
        """Return a new tunnel to the agent on ``port`` of ``pod``."""
        site = self.site
        return Tunnel(
            site.cluster, site.workload.namespace, pod, site.token,
            port=port, on_session=self._on_session, on_stream=self._on_stream,
        )  # fmt: skip

    async def gone(self, pod: str) -> None:
        """A pod is gone, or the agent in it."""
        agent = self.there.pop(pod, None)
        if agent is not None:
            await agent.tunnel.close()

    async def close(self) -> None:
        """Close all tunnels."""
        there, self.there = self.there, {}
        for agent in there.values():
            await agent.tunnel.close()

    @property
    def waiting(self) -> list[Tunnel]:
        """The tunnels that the engagement still waits for."""
        return [agent.tunnel for agent in self.there.values() if agent.essential and not agent.tunnel.ready.is_set()]

    @property
    def complete(self) -> bool:
        """Whether there are as many as there have to be."""
        return bool(self.there)

    @property
    def ready(self) -> bool:
        """Whether any agent answers, or may soon again."""
        return any(agent.tunnel.ready.is_set() for agent in self.there.values())

    def sessions(self) -> list[Session]:
        """Return the sessions that can be used, upright ones first."""
        found = sorted(self.there.values(), key=lambda one: one.tunnel.state != "connected")
        return [one.tunnel.session for one in found if one.tunnel.session is not None and one.tunnel.ready.is_set()]


class Ephemeral(Agents):
    """Agents in ephemeral containers: ``role`` ``net`` in every pod, ``files`` in one."""

    def __init__(
        self,
        site: Site,
        role: str,
        on_session: Callable[[Session], Awaitable[None]] | None = None,
        on_stream: Callable[[Stream], None] | None = None,
    ) -> None:
        super().__init__(site, on_session, on_stream)
        self._role = role
        self._deaths: dict[str, int] = {}
        self._closed = False

    def new_spot(self, pod: Object, beside: tuple[int, ...] = ()) -> ephemeral.Spot:
        """Return where an agent can be put, ``beside`` others on these ports."""
        return ephemeral.new_spot(pod, self._role, beside)

    def manifest(self, pod: Object, spot: ephemeral.Spot) -> Object:
        """Return the container to put in at ``spot``."""
        site = self.site
        if self._role == ephemeral.NET:
            return ephemeral.net_agent(spot, site.image, site.pull_policy, site.holder.client, site.token)
        return ephemeral.files_agent(
            pod, site.container, spot, site.image, site.pull_policy, site.holder.client, site.token
        )

    async def check(self, pod: Object, kind: str) -> None:
        """Find out, changing nothing, whether an agent may be put into ``pod``. Forbidden says what is not possible and why."""
        await ephemeral.check(self.site.cluster, pod, [self.manifest(pod, self.new_spot(pod))], kind)

    async def see(self, pod: Object) -> Object:
        """Put an agent in, or see to the one that is there."""
        name = podstate.name_of(pod)
        agent = self.there.get(name)
        if agent is not None:
            await self._look(pod, agent)
            return pod
        return await put_in([self], pod) if self.wants(pod) else pod

    def wants(self, pod: Object) -> bool:
        """Whether an agent has to be put into ``pod``."""
        if self._closed or podstate.name_of(pod) in self.there or (self._role == ephemeral.FILES and self.there):
            return False
        assigned = bool(pod["spec"].get("nodeName")) and podstate.spec_of(pod, self.site.container) is not None
        return assigned and self.site.workload.has(pod) and not podstate.is_leaving(pod)

    def put(self, pod: Object, spot: ephemeral.Spot) -> None:
        """An agent was put into ``pod``."""
        name = podstate.name_of(pod)
        self.there[name] = Agent(name, spot.container, self.tunnel(name, spot.port), podstate.is_ready(pod))

    async def _look(self, pod: Object, agent: Agent) -> None:
        state = ephemeral.status_of(pod, agent.container)
        if "running" in state:
            agent.suspect_since = None
            if not agent.tunnel.ready.is_set():
                agent.tunnel.hurry()
        elif "terminated" in state:
            await self._died(agent, str(state["terminated"].get("reason") or "it ended"))
        elif (reason := str((state.get("waiting") or {}).get("reason") or "")) in podstate.HOPELESS:
            if agent.suspect_since is None:
                agent.suspect_since = time.monotonic()
                self.site.spawn(self._look_again(agent))
            elif time.monotonic() - agent.suspect_since >= PATIENCE:
                text = " ".join(str(state["waiting"].get("message") or "").split())
                self.site.fail(self.site.no_image(agent.pod, reason, text))
        else:
            agent.suspect_since = None

    async def _look_again(self, agent: Agent) -> None:
        await asyncio.sleep(PATIENCE)
        await self._see_again(agent.pod)

    async def _see_again(self, name: str) -> None:
        with contextlib.suppress(TeleError):
            pod = await self.site.cluster.get("pods", self.site.workload.namespace, name)
            await self.see(pod)

    async def _died(self, agent: Agent, reason: str) -> None:
        """Have another one put in: at once, unless they die young."""
        lived = time.monotonic() - agent.born
        deaths = self._deaths[agent.pod] = self._deaths.get(agent.pod, 0) + 1 if lived < YOUNG else 0
        log.warning("the agent %s in pod %s has ended after %.0f s: %s", agent.container, agent.pod, lived, reason)
        await self.gone(agent.pod)
        pause = min(2.0**deaths, LONGEST_PAUSE) if deaths else 0.0
        self.site.spawn(self._later(agent.pod, pause))

    async def _later(self, pod: str, pause: float) -> None:
        await asyncio.sleep(pause)
        if pod not in self.there:
            await self._see_again(pod)

    async def close(self) -> None:
        """Tell the agents to end, and close the tunnels. One that cannot be told ends by itself when nobody comes."""
        self._closed = True
        await asyncio.gather(*(self._end(agent) for agent in self.there.values()))
        await super().close()

    async def _end(self, agent: Agent) -> None:
        session = agent.tunnel.session
        if session is None or not agent.tunnel.ready.is_set() or not session.connected:
            return
        with contextlib.suppress(TeleError, OSError, EOFError):
            stream, _ = await request(session, {"op": "shutdown"}, GOODBYE)
            stream.close()
            # It closes the link when the requests that are under way have their answers.
            for _ in range(round(LAST_ANSWERS / LOOK_EACH)):
                if not session.connected:
                    break
                await asyncio.sleep(LOOK_EACH)


async def put_in(parts: Sequence[Ephemeral], pod: Object) -> Object:
    """Put an agent of each of ``parts`` into ``pod``, return it as it is then; TeleError if that is refused.

    All in one change: before the kubelet sees to the next one it waits until it knows what became of this, up to a second.
    """
    spots: list[ephemeral.Spot] = []
    manifests = []
    for part in parts:
        spots.append(part.new_spot(pod, tuple(spot.port for spot in spots)))
        manifests.append(part.manifest(pod, spots[-1]))
    try:
        pod = await ephemeral.inject(parts[0].site.cluster, pod, manifests)
    except NotFound:
        return pod
    for part, spot in zip(parts, spots, strict=True):
        part.put(pod, spot)
    return pod


async def end_abandoned(cluster: Cluster, namespace: str, client: str) -> None:
    """End the agents in ephemeral containers that this client has left running."""
    from teledaemon.portforward import end_abandoned as end

    async def one(pod: str, spot: ephemeral.Spot) -> None:
        try:
            await end(cluster, namespace, pod, spot.port)
        except (Unavailable, Conflict, NotFound) as error:
            log.info("agent %s in pod %s: %s", spot.container, pod, error)

    pods = await cluster.list("pods", namespace)
    await asyncio.gather(
        *(one(podstate.name_of(pod), spot) for pod in pods for spot in ephemeral.of_client(pod, client))
    )
