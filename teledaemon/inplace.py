"""The agents of a ``replace``: in the place of the workload's container, by the image of running pods or by the pod template."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from teledaemon import podstate, replacement, template
from teledaemon.agents import PATIENCE, Agent, Agents, Site
from teledaemon.claims import is_held
from teledaemon.kube import Object
from teledaemon.replacement import Record
from teledaemon.tunnel import stamp
from telewire.errors import Conflict, NotFound, TeleError
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)


def claim_of(container: str) -> str:
    """Return what a ``replace`` claims besides the ports."""
    return f"container {container}"


class _Replacing(Agents):
    """What both ways share."""

    async def _free(self, item: Object, put_back: Callable[[], Awaitable[None]]) -> Record | None:
        """Return our record of ``item``, None if it is free. Conflict if somebody else, who is alive, has it; a dead one's is put back."""
        record = replacement.record_of(item)
        site = self.site
        if record is None or record.client == site.holder.client:
            return record
        key = f"{site.workload.kind}/{site.workload.name}"
        if await is_held(site.cluster, site.workload.namespace, key, claim_of(record.container), site.holder.client):
            raise Conflict(
                f"{site.workload.name} is replaced already, by {record.owner} (connection {record.connection}) since "
                f"{record.since}; they have to leave it first"
            )
        log.info("%s was left replaced by %s, who is gone; putting it back first", site.workload.name, record.owner)
        await put_back()
        return None

    def _record(self, image: str, image_id: str = "") -> Record:
        holder = self.site.holder
        return Record(holder.client, holder.owner, holder.connection, stamp(), self.site.container, image, image_id)


class InPlace(_Replacing):
    """By the image of each running pod."""

    async def see(self, pod: Object) -> Object:
        """Replace in a pod, or see to the agent that is there."""
        name = podstate.name_of(pod)
        if name not in self.there:
            await self._take(pod)
        agent = self.there.get(name)
        if agent is not None:
            await self._look(pod, agent)
        return pod

    async def _take(self, pod: Object) -> None:
        name, site = podstate.name_of(pod), self.site
        spec = podstate.spec_of(pod, site.container)
        if spec is None or podstate.is_leaving(pod) or not site.workload.has(pod) or not pod["spec"].get("nodeName"):
            return
        namespace = site.workload.namespace

        async def put_back() -> None:
            await replacement.put_back(site.cluster, namespace, name)

        had = replacement.record_of(pod)
        record = await self._free(pod, put_back)
        if record is None:
            if had is not None:
                pod = await site.cluster.get("pods", namespace, name)
                spec = podstate.spec_of(pod, site.container) or spec
            image_id = str(podstate.status_of(pod, site.container).get("imageID") or "")
            await replacement.put_in(site.cluster, pod, self._record(str(spec["image"]), image_id), site.image)
        elif record.container != site.container:
            raise Conflict(
                f"pod {name} has its container {record.container} replaced already; `telepresence leave` that first"
            )
        self.there[name] = Agent(name, site.container, self.tunnel(name))

    async def _look(self, pod: Object, agent: Agent) -> None:
        """Hurry the tunnel when the agent runs; see what holds it up when it does not."""
        if podstate.is_running(pod, self.site.container):
            agent.suspect_since = None
            agent.tunnel.hurry()
            return
        reason, text = podstate.waiting_reason(pod, self.site.container)
        if reason not in podstate.HOPELESS and reason != podstate.BACK_OFF:
            agent.suspect_since = None
        elif agent.suspect_since is None:
            agent.suspect_since = time.monotonic()
            self.site.spawn(self._look_again(agent.pod))
        elif time.monotonic() - agent.suspect_since >= PATIENCE:
            if reason == podstate.BACK_OFF and await replacement.renew(self.site.cluster, pod):
                await self.gone(agent.pod)
                return
            self.site.fail(self.site.no_image(agent.pod, reason, text))

    async def _look_again(self, name: str) -> None:
        await asyncio.sleep(PATIENCE)
        with contextlib.suppress(TeleError):
            pod = await self.site.cluster.get("pods", self.site.workload.namespace, name)
            if (agent := self.there.get(name)) is not None:
                await self._look(pod, agent)

    def _is_ours(self, pod: Object) -> bool:
        with contextlib.suppress(Conflict):
            record = replacement.record_of(pod)
            client = self.site.holder.client
            return record is not None and record.client == client and record.container == self.site.container
        return False

    async def put_back(self) -> None:
        """Put the image back in every pod; return when the originals are ready."""
        site = self.site
        namespace = site.workload.namespace
        try:
            pods = await site.workload.pods(site.cluster)
        except NotFound:
            return
        ours = [podstate.name_of(pod) for pod in pods if self._is_ours(pod)]
        await asyncio.gather(*(replacement.put_back(site.cluster, namespace, name) for name in ours))
        await self._wait_ready()

    async def _wait_ready(self) -> None:
        """Wait until as many pods are ready as there are: one that had to be renewed takes its moment."""
        site = self.site
        deadline = time.monotonic() + replacement.BACK_TIMEOUT
        while time.monotonic() < deadline:
            try:
                pods = await site.workload.pods(site.cluster)
            except NotFound:
                return
            if len(pods) >= min(site.workload.replicas, 1) and all(map(podstate.is_ready, pods)):
                return
            await asyncio.sleep(0.2)


class ByTemplate(_Replacing):
    """By the pod template, which the controller rolls out."""

    def __init__(
        self,
        site: Site,
        on_session: Callable[[Session], Awaitable[None]] | None = None,
        on_stream: Callable[[Stream], None] | None = None,
    ) -> None:
        super().__init__(site, on_session, on_stream)
        self._original = ""

    async def change(self) -> None:
        """Put the agent into the template. Conflict if somebody else has; BadRequest where there is no controller."""
        site = self.site
        workload = site.workload
        spec = next(one for one in workload.template["containers"] if one["name"] == site.container)
        self._original = str(spec["image"])

        async def put_back() -> None:
            await template.put_back(site.cluster, workload.kind, workload.namespace, workload.name)

        if replacement.record_of(workload.object) is not None:
            if await self._free(workload.object, put_back) is not None:
                raise Conflict(f"{workload.name} has a container replaced already; `telepresence leave` that first")
            raise Conflict(f"{workload.name} has just been put back from an engagement that was left; try again")
        await template.put_in(site.cluster, workload, self._record(self._original), site.image, site.pull_policy)

    @property
    def complete(self) -> bool:
        """Whether the change has reached every pod."""
        return len(self.there) >= max(self.site.workload.replicas, 1)

    async def see(self, pod: Object) -> Object:
        """Open the tunnel to a pod that was made from the changed template; one from before goes by itself."""
        name, site = podstate.name_of(pod), self.site
        spec = podstate.spec_of(pod, site.container)
        if spec is None or podstate.is_leaving(pod) or not site.workload.has(pod) or spec["image"] != site.image:
            return pod
        agent = self.there.get(name)
        if agent is None:
            if not pod["spec"].get("nodeName"):
                return pod
            agent = self.there[name] = Agent(name, site.container, self.tunnel(name))
        if podstate.is_running(pod, site.container):
            agent.tunnel.hurry()
            return pod
        reason, text = podstate.waiting_reason(pod, site.container)
        if reason in podstate.HOPELESS:
            agent.suspect_since = agent.suspect_since or time.monotonic()
            if time.monotonic() - agent.suspect_since >= PATIENCE:
                site.fail(site.no_image(name, reason, text))
        return pod

    async def put_back(self) -> None:
        """Put the template back; return when its pods are ready."""
        site = self.site
        workload = site.workload
        await template.put_back(site.cluster, workload.kind, workload.namespace, workload.name)
        if self._original:
            await template.wait_rolled_out(
                site.cluster, workload, self._original, site.container, replacement.BACK_TIMEOUT
            )
