"""One engagement: its workload's pods, the agents in them, and the handler here that their traffic comes to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from teledaemon import ephemeral, podstate
from teledaemon.agents import Agents, Ephemeral, Site, put_in
from teledaemon.claims import Claims, Holder
from teledaemon.handler import Handler
from teledaemon.inplace import ByTemplate, InPlace, claim_of
from teledaemon.kube import Cluster, Object
from teledaemon.ports import Port, listening, needs_template, redirecting
from teledaemon.topod import Forwards, ToPod
from teledaemon.tunnel import stamp
from teledaemon.workloads import Workload
from telewire import names
from telewire.errors import Conflict, NotFound, TeleError, Unavailable
from telewire.messages import read_message, request
from telewire.session import Session, SessionLost, finish
from telewire.stream import Stream

log = logging.getLogger(__name__)

ENGAGE_TIMEOUT = 120.0
SLOTS = range(1, 16)
"""Where wiretaps stand before the application, one behind the other; an ``intercept`` is in slot 0."""
READ_ONLY = ("wiretap", "ingest")
LISTEN_TIMEOUT = 30.0


@dataclass(frozen=True)
class Plan:
    """What is wanted, looked up and checked."""

    kind: str
    name: str
    workload: Workload
    container: str
    ports: list[Port]
    service: str | None = None
    to_pod: list[ToPod] = field(default_factory=list)


@dataclass(frozen=True)
class Means:
    """What an engagement works with."""

    cluster: Cluster
    holder: Holder
    image: str
    pull_policy: str
    resolve: Callable[[str], Awaitable[str]]
    gateway: Callable[[], str]
    """The daemon's address on the network of the handlers."""
    slots: Callable[[Workload], set[int]]
    """The slots that this connection's other wiretaps of a workload have."""
    over: Callable[[Engagement, str], None]
    """Told when an engagement cannot go on."""


class Engagement:
    """From :meth:`start` to :meth:`stop`."""

    def __init__(self, plan: Plan, means: Means) -> None:
        self.id = os.urandom(8).hex()
        self.plan, self.name, self.workload = plan, plan.name, plan.workload
        self.state, self.since = "waiting", stamp()
        self.slot = 0
        self.environment: dict[str, str] = {}
        self.mounts: list[dict[str, Any]] = []
        self.not_mounted: list[str] = []
        self.copies = {"sent": 0, "lost": 0}
        self.handler = Handler(plan.name, plan.ports, means.resolve)
        self._means = means
        self._starting: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._undoing: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: dict[Stream, tuple[int, int]] = {}
        key = f"{plan.workload.kind}/{plan.workload.name}"
        namespace = plan.workload.namespace
        self._claims = Claims(means.cluster, namespace, key, means.holder, plan.kind, self._claim_lost)
        site = Site(
            means.cluster, plan.workload, plan.container, means.holder, means.image, means.pull_policy,
            os.urandom(16).hex(), self._fail, self._spawn,
        )  # fmt: skip
        on_stream = self.handler.on_stream
        self._traffic: Agents | None = None
        self._files: Agents
        if plan.kind == "replace":
            by_template = needs_template(self._spec) is not None
            self._traffic = self._files = (ByTemplate if by_template else InPlace)(site, self._on_session, on_stream)
        else:
            if plan.kind != "ingest":
                self._traffic = Ephemeral(site, ephemeral.NET, self._on_session, on_stream)
            self._files = Ephemeral(site, ephemeral.FILES)
        # The files first: the handler's container is made while the kubelet starts the agents for the traffic.
        self._parts = [self._files] if self._traffic in (None, self._files) else [self._files, self._traffic]
        self.forwards = Forwards(plan.to_pod, self.session)

    @property
    def _spec(self) -> Object:
        """The engaged container, as the workload has it."""
        found: Object = next(one for one in self.workload.template["containers"] if one["name"] == self.plan.container)
        return found

    @property
    def claimed(self) -> set[str]:
        """What nobody else may engage meanwhile."""
        if self.plan.kind not in ("replace", "intercept"):
            return set()
        ports = {f"port {port.remote}/{port.protocol}" for port in self.plan.ports}
        return ports | ({claim_of(self.plan.container)} if self.plan.kind == "replace" else set())

    # Life.

    async def start(self) -> None:
        """Begin to engage every pod; return when environment and mounts are known. A TeleError has undone it all.

        Agents may still be on their way into the pods then, which :meth:`until_active` waits for: a handler takes its time as well.
        """
        self._starting = asyncio.get_running_loop().create_task(self._start(), name=f"start-{self.name}")
        known = asyncio.get_running_loop().create_task(self._known.wait())
        try:
            await asyncio.wait({self._starting, known}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        finally:
            await finish(known)
        if self._starting.done():
            await self.until_active()

    async def until_active(self, seconds: float | None = None) -> None:
        """Return when every pod is engaged, or after ``seconds``.

        The TeleError by which that fails has undone it all; NotFound: it was ended meanwhile.
        """
        if self._starting is not None:
            done, _ = await asyncio.wait({self._starting}, timeout=seconds)
            if self._starting.cancelled():
                raise NotFound(f"engagement {self.name} was ended while it began")
            if done:
                self._starting.result()

    async def _start(self) -> None:
        pods = await self.workload.pods(self._means.cluster)
        if not pods:
            raise Unavailable(f"{self.workload.name} has no running pod to engage; scale it up or see its events")
        pods.sort(key=podstate.is_ready, reverse=True)
        new = [part for part in self._parts if isinstance(part, Ephemeral)]
        await asyncio.gather(*(part.check(pods[0], self.plan.kind) for part in new))
        try:
            await self._claim()
            if isinstance(self._traffic, ByTemplate):
                await self._traffic.change()
            for pod in pods:
                await self._see(pod)
            self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"engagement-{self.name}")
            await self._wait_for([self._files])
            await self._learn()
            self._known.set()
            await self._wait_for(self._parts)
            if self.plan.to_pod:
                await self.forwards.open(self._means.gateway())
        except BaseException:
            await self._undo()
            raise
        self._turn("active")

    async def _claim(self) -> None:
        if self.plan.kind != "wiretap":
            await self._claims.take(self.claimed)
            return
        refused: Conflict | None = None
        for slot in SLOTS:
            if slot in self._means.slots(self.workload):
                continue
            self.slot = slot
            try:
                await self._claims.take([f"tap {slot}"])
                return
            except Conflict as error:
                refused = error
        raise Conflict(f"{self.workload.name} has {len(SLOTS)} wiretaps already ({refused}); end one of them first")

    async def release(self) -> None:
        """Let the application answer again, and what is under way end; environment and files stay until :meth:`stop`."""
        if isinstance(self._traffic, Ephemeral):
            await self._traffic.close()

    async def stop(self) -> None:
        """Put the originals back; return when they are ready. TeleError if that is refused: the annotations stay then."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait({self._starting})
        await self._undo()

    async def _undo(self) -> None:
        """Once, whoever asks for it."""
        if self._undoing is None:
            self._undoing = asyncio.get_running_loop().create_task(self._put_back(), name=f"undo-{self.name}")
        await asyncio.shield(self._undoing)

    async def _put_back(self) -> None:
        if self._task is not None:
            await finish(self._task)
            self._task = None
        self._turn("ended")
        await asyncio.gather(*(part.close() for part in self._parts))
        self.forwards.close()
        self.handler.close()
        for task in list(self._tasks):
            task.cancel()
        try:
            for part in self._parts:
                await part.put_back()
        finally:
            await self._claims.release()

    def _turn(self, state: str) -> None:
        if state != self.state:
            self.state, self.since = state, stamp()
            log.info("engagement %s: %s", self.name, state)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _claim_lost(self, reason: str) -> None:
        log.warning("engagement %s: %s", self.name, reason)
        self._means.over(self, reason)

    # Pods.

    async def _see(self, pod: Object) -> None:
        if len(wanting := [part for part in self._parts if isinstance(part, Ephemeral) and part.wants(pod)]) > 1:
            pod = await put_in(wanting, pod)
        for part in self._parts:
            pod = await part.see(pod)

    async def _gone(self, pod: str) -> None:
        for part in self._parts:
            await part.gone(pod)

    async def _follow(self) -> None:
        """Keep every pod of the workload engaged, also those that come later."""
        workload = self.workload
        async for event, item in self._means.cluster.watch("pods", workload.namespace, workload.selector):
            items = item["items"] if event == "SYNC" else [item]
            if event == "SYNC":
                there = {podstate.name_of(pod) for pod in items}
                for part in self._parts:
                    for name in set(part.there) - there:
                        await part.gone(name)
            for pod in items:
                if event == "DELETED" or podstate.is_through(pod):
                    await self._gone(podstate.name_of(pod))
                elif podstate.is_leaving(pod):
                    await self._leaving(podstate.name_of(pod))
                else:
                    await self._look(pod)
            if not self._files.there and self._files is not self._traffic:
                await self._find_files()
            self._judge()

    async def _leaving(self, pod: str) -> None:
        """A pod is being deleted: what is asked of it is still answered, but its files are had from another one."""
        if self._files is not self._traffic:
            await self._files.gone(pod)

    async def _look(self, pod: Object) -> None:
        try:
            await self._see(pod)
        except TeleError as error:
            log.warning("pod %s: %s", podstate.name_of(pod), error)
            self._fail(error)

    async def _find_files(self) -> None:
        """Have the files from another pod: the one that had them is gone."""
        with contextlib.suppress(TeleError):
            for pod in sorted(await self.workload.pods(self._means.cluster), key=podstate.is_ready, reverse=True):
                await self._look(pod)

    def _fail(self, error: TeleError) -> None:
        if self.state == "waiting" and not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()

    def _judge(self) -> None:
        """Turn the state with what the tunnels say."""
        if self.state in ("active", "lost"):
            self._turn("active" if (self._traffic or self._files).ready else "lost")

    async def _wait_for(self, parts: Sequence[Agents]) -> None:
        deadline = time.monotonic() + ENGAGE_TIMEOUT
        while True:
            waiting = [tunnel for part in parts for tunnel in part.waiting]
            if not waiting and all(part.ready and part.complete for part in parts):
                return
            if self._failure.done():
                self._failure.result()
            if time.monotonic() > deadline:
                said = "; ".join(f"{t.pod}: {t.error or 'no answer'}" for t in waiting) or "no pod came"
                raise Unavailable(
                    f"{self.workload.name} was not engaged within {ENGAGE_TIMEOUT:.0f} s ({said}); see the pods' events"
                )
            await asyncio.sleep(0.01)

    def session(self) -> Session:
        """Return a session with one of the agents that have the files. SessionLost if there is none."""
        for session in self._files.sessions():
            return session
        raise SessionLost(f"no pod of {self.workload.name} is engaged at the moment")

    # What the agents are asked.

    async def _on_session(self, session: Session) -> None:
        """Have a new agent take the ports. TeleError if it cannot: the tunnel tries again."""
        mode = self.plan.kind
        if mode == "replace":
            wanted = listening(self.plan.ports, self._spec)
        else:
            wanted = redirecting(self.plan.ports, self.workload.template["containers"])
            session.watch_closely()
        message = {"op": "listen", "mode": mode, "slot": self.slot, "ports": wanted, "hold": mode == "replace"}
        stream, answer = await request(session, message, LISTEN_TIMEOUT)
        failed = answer.get("failed") or []
        if failed:
            stream.close()
            said = ", ".join(f"{one['port']}/{one['protocol']}: {one['text']}" for one in failed)
            error = Unavailable(f"the agent cannot take {said}; choose other ports with --port")
            self._fail(error)
            raise error
        self._spawn(self._until_end(stream))

    async def _until_end(self, stream: Stream) -> None:
        """Keep the ports; take what a wiretap's agent tells of its copies."""
        with contextlib.suppress(OSError, EOFError, TeleError):
            while True:
                message = await read_message(stream, 365 * 86400)
                self._counts[stream] = int(message.get("copies", 0)), int(message.get("lost", 0))
                self.copies = {
                    "sent": sum(sent for sent, _ in self._counts.values()),
                    "lost": sum(lost for _, lost in self._counts.values()),
                }

    async def _learn(self) -> None:
        """Ask one agent for the environment and the volumes."""
        session = self.session()
        keep = [str(entry["name"]) for entry in self._spec.get("env") or []]
        stream, answer = await request(session, {"op": "environment", "keep": keep})
        stream.close()
        self.environment = {_text(key): _text(value) for key, value in answer["environment"]}
        mounts = await self._volume_mounts()
        directories = [one["dir"] for one in mounts if one["dir"]]
        stream, answer = await request(session, {"op": "mounts", "paths": directories})
        stream.close()
        found = {one["path"]: one for one in answer["mounts"]}
        for one in mounts:
            there = found.get(one["dir"])
            if there is None or not there["exists"] or not there["directory"]:
                self.not_mounted.append(one["path"])
                continue
            read_only = one["read_only"] or not there["writable"] or self.plan.kind in READ_ONLY
            self.mounts.append({"path": one["path"], "dir": one["dir"], "read_only": bool(read_only)})

    async def _volume_mounts(self) -> list[dict[str, Any]]:
        """Return the container's mounts, with those that admission has added to the pod, and where the agent has them."""
        pod = await self._means.cluster.get("pods", self.workload.namespace, next(iter(self._files.there)))
        spec = podstate.spec_of(pod, self.plan.container) or {}
        mirrored = isinstance(self._files, Ephemeral)
        return [
            {
                "path": str(mount["mountPath"]),
                "dir": ephemeral.directory(mount) if mirrored else str(mount["mountPath"]),
                "read_only": bool(mount.get("readOnly")),
            }
            for mount in spec.get("volumeMounts") or []
        ]

    async def export(self) -> Stream:
        """Return a stream of SFTP packets with the remote container's files. TeleError if no agent answers."""
        read_only = self.plan.kind in READ_ONLY
        stream, _ = await request(self.session(), {"op": "sftp", "root": "/", "read_only": read_only}, 20)
        return stream

    # Telling.

    def describe(self, *, whole: bool = False) -> dict[str, Any]:
        """Return what the control API tells of it; with the environment if ``whole``."""
        self._judge()
        told: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "kind": self.plan.kind,
            "workload": self.workload.name,
            "workload_kind": self.workload.kind,
            "namespace": self.workload.namespace,
            "container": self.plan.container,
            "service": self.plan.service,
            "state": self.state,
            "since": self.since,
            "pods": sorted((self._traffic or self._files).there),
            "ports": [port.describe() for port in self.plan.ports],
            "mounts": self.mounts,
            "not_mounted": self.not_mounted,
            "export": {"port": names.EXPORT_PORT, "id": self.id} if self.mounts else None,
            "to_pod": self.forwards.told,
            "copies": self.copies if self.plan.kind == "wiretap" else None,
            "handler": self.handler.describe(),
        }
        if whole:
            told["environment"] = self.environment
        return told

    def tunnels(self) -> list[dict[str, Any]]:
        """Return what the control API tells of the tunnels."""
        return [agent.tunnel.describe() for part in self._parts for agent in part.there.values()]


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="surrogateescape")
