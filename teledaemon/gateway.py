"""The gateway: one pod in the connected namespace, made by a Job, through which the connection reaches the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

from teledaemon import podstate
from teledaemon.kube import Cluster, Object
from teledaemon.tunnel import Tunnel
from telewire import names
from telewire.errors import Forbidden, NotFound, TeleError, Unavailable
from telewire.session import Session, SessionLost, finish

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0
"""Seconds until the gateway must answer; the node may have to pull the image."""
PATIENCE = 4.0
"""Seconds that a pull error or a lack of nodes may last before it counts."""
IDLE = 150
"""Seconds without a client after which the gateway ends itself: longer than a session waits for its link."""
AFTERLIFE = 5
"""Seconds that the ended Job stays."""
JOBS = "batch/v1/jobs"
CONTAINER = "gateway"


def manifest(name: str, client: str, owner: str, image: str, pull_policy: str) -> Object:
    """Return the Job: admitted by PodSecurity "restricted", ends by itself, is deleted then."""
    labels = {
        names.KUBE_MANAGED_BY[0]: names.KUBE_MANAGED_BY[1],
        "app.kubernetes.io/name": "telepresence-gateway",
        names.KUBE_LABEL_CLIENT: client,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {"telepresence.io/owner": owner}},
        "spec": {
            "backoffLimit": 20,
            "ttlSecondsAfterFinished": AFTERLIFE,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "OnFailure",
                    "terminationGracePeriodSeconds": 2,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": CONTAINER,
                            "image": image,
                            "imagePullPolicy": pull_policy,
                            "args": ["--exit-when-idle", str(IDLE)],
                            "resources": {
                                "requests": {"cpu": "10m", "memory": "48Mi"},
                                "limits": {"memory": "512Mi"},
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]},
                            },
                        }
                    ],
                },
            },
        },
    }


async def remove_jobs(cluster: Cluster, namespace: str, client: str, keep: str | None = None) -> None:
    """Delete all gateways of a client but ``keep``, pods first seen ended by Kubernetes itself."""
    for job in await cluster.list(JOBS, namespace, labelSelector=f"{names.KUBE_LABEL_CLIENT}={client}"):
        if podstate.name_of(job) != keep:
            await _delete(cluster, namespace, podstate.name_of(job))


async def _delete(cluster: Cluster, namespace: str, job: str) -> None:
    await cluster.delete(JOBS, namespace, job, {"propagationPolicy": "Foreground", "gracePeriodSeconds": 0})


class Gateway:
    """The client's gateway, kept up: when its pod goes, the next one is used; when its Job goes, another is made."""

    def __init__(self, cluster: Cluster, namespace: str, client: str, owner: str, image: str, pull_policy: str) -> None:
        self._cluster, self._namespace, self._client, self._owner = cluster, namespace, client, owner
        self._image, self._pull_policy = image, pull_policy
        self._token = os.urandom(16).hex()
        self._task: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._suspect_since: float | None = None
        self._up = asyncio.Event()
        self.job = self._new_name()
        self.tunnel: Tunnel | None = None
        self.node = ""

    def _new_name(self) -> str:
        return f"telepresence-gateway-{self._client}-{os.urandom(3).hex()}"

    @property
    def session(self) -> Session:
        """The session to dial through; it may be without a link for a while. Unavailable if there is none."""
        session = self.tunnel.session if self.tunnel is not None else None
        if session is None or session.closed.done():
            raise SessionLost("there is no tunnel to the cluster at the moment")
        return session

    async def start(self) -> Session:
        """Make the Job and wait for the tunnel; return its session. A TeleError says what holds it up; close it then."""
        await self._create()
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="gateway")
        up = asyncio.ensure_future(self._up.wait())
        waiting: list[asyncio.Future[Any]] = [up, self._failed, self._task]
        try:
            done, _ = await asyncio.wait(waiting, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
            if self.tunnel is None:
                raise Unavailable(f"the gateway pod did not start within {START_TIMEOUT:.0f} s; see job {self.job}")
            return await self.tunnel.wait_ready(30)
        finally:
            up.cancel()

    async def close(self) -> None:
        """Delete the Job and wait until its pod is gone. TeleError if the cluster refuses."""
        if self._task is not None:
            await finish(self._task)
        if self.tunnel is not None:
            await self.tunnel.close()
        await _delete(self._cluster, self._namespace, self.job)
        deadline = time.monotonic() + 15
        with contextlib.suppress(NotFound):
            while time.monotonic() < deadline:
                await self._cluster.get(JOBS, self._namespace, self.job)
                await asyncio.sleep(0.1)

    async def _create(self) -> None:
        body = manifest(self.job, self._client, self._owner, self._image, self._pull_policy)
        try:
            await self._cluster.request("POST", f"/apis/batch/v1/namespaces/{self._namespace}/jobs", body)
        except NotFound:
            raise NotFound(
                f"there is no namespace {self._namespace!r} in the cluster; choose another with --namespace"
            ) from None

    async def _follow(self) -> None:
        async for event, item in self._cluster.watch("pods", self._namespace, f"job-name={self.job}"):
            if event == "SYNC":
                for pod in item["items"]:
                    await self._take(pod)
                if self._up.is_set() and not item["items"]:
                    await self._mend()
            elif event == "DELETED":
                if self.tunnel is not None and self.tunnel.pod == podstate.name_of(item):
                    await self._drop()
                    await self._mend()
            else:
                await self._take(item)

    async def _take(self, pod: Object) -> None:
        if podstate.is_leaving(pod):
            return
        if not podstate.is_running(pod, CONTAINER):
            self._judge(pod)
            return
        self._suspect_since = None
        name = podstate.name_of(pod)
        if self.tunnel is not None and self.tunnel.pod == name:
            self.tunnel.hurry()
            return
        await self._drop()
        self.node = str(pod["spec"].get("nodeName") or "")
        self.tunnel = Tunnel(self._cluster, self._namespace, name, self._token)
        self._up.set()

    async def _drop(self) -> None:
        if self.tunnel is not None:
            tunnel, self.tunnel = self.tunnel, None
            await tunnel.close()

    def _judge(self, pod: Object) -> None:
        """Give up if what holds the pod up will not pass by itself."""
        reason, text = podstate.waiting_reason(pod, CONTAINER)
        hopeless = f"{reason}: {text}" if reason in podstate.HOPELESS else ""
        trouble = hopeless or podstate.unschedulable(pod)
        if not trouble:
            return
        if self._suspect_since is None:
            self._suspect_since = time.monotonic()
            asyncio.get_running_loop().call_later(PATIENCE, self._judge_again, trouble)

    def _judge_again(self, trouble: str) -> None:
        if self._suspect_since is not None and not self._up.is_set() and not self._failed.done():
            self._failed.set_exception(
                Unavailable(
                    f"the gateway pod cannot run with the image {self._image}: {trouble}; set TELEPRESENCE_AGENT_IMAGE or "
                    "TELEPRESENCE_REGISTRY to where the cluster finds it"
                )
            )
            self._failed.exception()  # looked at, also when nobody waits any more

    async def _mend(self) -> None:
        """Make another Job if ours is gone; while it is there it makes another pod itself."""
        while True:
            try:
                job = await self._cluster.get(JOBS, self._namespace, self.job)
                if not job["metadata"].get("deletionTimestamp") and not (job.get("status") or {}).get("completionTime"):
                    return
            except NotFound:
                break
            except TeleError as error:
                log.warning("the gateway's job: %s", error)
            await asyncio.sleep(0.5)
        try:
            await self._create()
            log.info("the gateway's job was gone; made it again")
        except (Forbidden, TeleError) as error:
            log.warning("the gateway's job cannot be made again: %s", error)

    def describe(self) -> dict[str, Any] | None:
        """Return what the control API tells of it."""
        return {"pod": self.tunnel.pod, "node": self.node} if self.tunnel is not None else None
