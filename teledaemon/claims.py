"""Claims: who has a port of a workload. One Lease each, renewed while its holder lives, free to anybody 15 s after it died.

https://kubernetes.io/docs/concepts/architecture/leases/
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from teledaemon import podstate
from teledaemon.kube import Cluster, Object
from telewire import names
from telewire.errors import Conflict, Forbidden, NotFound, TeleError
from telewire.session import finish

log = logging.getLogger(__name__)

PREFIX = "telepresence-"
LEASES = "coordination.k8s.io/v1/leases"
DURATION = 15
RELEASE_ATTEMPTS = 5
RENEW_EACH = 4.0
"""Seconds: two renewals may fail before the claim is anybody's."""
_OWNER, _CONNECTION, _WHAT = "telepresence.io/owner", "telepresence.io/connection", "telepresence.io/claims"


@dataclass(frozen=True)
class Holder:
    """Who claims."""

    client: str
    owner: str
    connection: str


def lease_name(workload: str, what: str) -> str:
    """Return the name of the Lease for ``what`` of ``workload`` (``Deployment/web``)."""
    return PREFIX + hashlib.sha256(f"{workload}/{what}".encode()).hexdigest()[:20]


def _micro(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _is_free(lease: Object, client: str, now: datetime.datetime) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity") or spec["holderIdentity"] == client:
        return True
    try:
        renewed = datetime.datetime.fromisoformat(str(spec["renewTime"]))
    except (KeyError, ValueError):
        return True
    return (now - renewed).total_seconds() > int(spec.get("leaseDurationSeconds") or DURATION)


class Claims:
    """The claims of one engagement. ``lost`` is called with the reason when somebody else has got one of them meanwhile."""

    def __init__(
        self, cluster: Cluster, namespace: str, workload: str, holder: Holder, kind: str, lost: Callable[[str], None]
    ) -> None:
        self._cluster, self._namespace, self._workload = cluster, namespace, workload
        self._holder, self._kind, self._lost = holder, kind, lost
        self._held: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def take(self, wanted: Iterable[str]) -> None:
        """Claim everything or nothing. Conflict says who has it, from where, since when."""
        try:
            for what in sorted(wanted):
                await self._take(what)
        except BaseException:
            await asyncio.shield(self.release())
            raise
        if self._held:
            self._task = asyncio.get_running_loop().create_task(self._renew(), name="claims")

    async def take_one(self, candidates: Iterable[str]) -> str:
        """Claim the first of ``candidates`` that is free; return it. Conflict if none is."""
        refused: Conflict | None = None
        for what in candidates:
            try:
                await self._take(what)
            except Conflict as error:
                refused = error
                continue
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._renew(), name="claims")
            return what
        raise refused or Conflict(f"nothing of {self._workload} can be claimed")

    async def _take(self, what: str) -> None:
        name = lease_name(self._workload, what)
        for _ in range(3):
            try:
                lease = await self._cluster.get(LEASES, self._namespace, name)
            except NotFound:
                lease = None
            if lease is not None and not _is_free(lease, self._holder.client, self._cluster.now()):
                raise self._clash(lease, what)
            try:
                await self._write(name, what, lease)
            except (Conflict, NotFound):
                continue  # somebody else was faster: see who
            self._held[what] = name
            return
        raise Conflict(f"{self._workload}: {what} is being claimed by others at this moment; try again")

    def _clash(self, lease: Object, what: str) -> Conflict:
        notes = lease["metadata"].get("annotations") or {}
        since = str(lease["spec"].get("acquireTime") or "?").partition(".")[0]
        kind = str(notes.get("telepresence.io/kind") or "engaged")
        said = "the container" if what.startswith("container ") else what.partition(" tap ")[0]
        return Conflict(
            f"{self._workload.partition('/')[2]} is engaged already: {kind} of {said} by {notes.get(_OWNER, '?')} "
            f"(connection {notes.get(_CONNECTION, '?')}) since {since}Z; they have to leave it first, or it is free "
            f"{DURATION} s after they are gone"
        )

    async def _write(self, name: str, what: str, lease: Object | None) -> None:
        now = _micro(self._cluster.now())
        metadata: Object = {
            "name": name,
            "labels": {
                names.KUBE_MANAGED_BY[0]: names.KUBE_MANAGED_BY[1],
                names.KUBE_LABEL_CLIENT: self._holder.client,
            },
            "annotations": {
                _OWNER: self._holder.owner,
                _CONNECTION: self._holder.connection,
                _WHAT: f"{self._workload} {what}",
                "telepresence.io/kind": self._kind,
            },
        }
        spec = {
            "holderIdentity": self._holder.client,
            "leaseDurationSeconds": DURATION,
            "acquireTime": now,
            "renewTime": now,
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        where = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"
        if lease is None:
            await self._cluster.request("POST", where, body)
        else:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
            await self._cluster.request("PUT", f"{where}/{name}", body)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EACH)
            for what, name in list(self._held.items()):
                try:
                    lease = await self._cluster.get(LEASES, self._namespace, name)
                    if (lease.get("spec") or {}).get("holderIdentity") != self._holder.client:
                        del self._held[what]
                        self._lost(str(self._clash(lease, what)))
                        return
                    lease["spec"]["renewTime"] = _micro(self._cluster.now())
                    where = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases/{name}"
                    await self._cluster.request("PUT", where, lease)
                except NotFound:
                    with contextlib.suppress(TeleError):
                        await self._write(name, what, None)
                except TeleError as error:
                    log.info("renewing the claim of %s %s: %s", self._workload, what, error)

    async def release(self) -> None:
        """Give everything back; what cannot be given back expires."""
        if self._task is not None:
            await finish(self._task)
            self._task = None
        held, self._held = self._held, {}
        for name in held.values():
            for _ in range(RELEASE_ATTEMPTS):
                try:
                    await self._give_back(name)
                    break
                except Conflict:
                    continue  # a renewal that was under way has come through
                except TeleError as error:
                    log.info("giving back a claim of %s: %s", self._workload, error)
                    break

    async def _give_back(self, name: str) -> None:
        """Delete one Lease, if it is still ours. Conflict if it changes meanwhile."""
        with contextlib.suppress(NotFound):
            lease = await self._cluster.get(LEASES, self._namespace, name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._holder.client:
                precondition = {"preconditions": {"resourceVersion": lease["metadata"]["resourceVersion"]}}
                await self._cluster.delete(LEASES, self._namespace, name, precondition)


async def is_held(cluster: Cluster, namespace: str, workload: str, what: str, client: str) -> bool:
    """Whether somebody else than ``client`` holds a claim at this moment."""
    try:
        lease = await cluster.get(LEASES, namespace, lease_name(workload, what))
    except (NotFound, Forbidden):
        return False
    return not _is_free(lease, client, cluster.now())


async def remove_all(cluster: Cluster, namespace: str, client: str) -> None:
    """Delete all claims of a client. A client that may not even list them has made none."""
    with contextlib.suppress(Forbidden):
        for lease in await cluster.list(LEASES, namespace, labelSelector=f"{names.KUBE_LABEL_CLIENT}={client}"):
            await cluster.delete(LEASES, namespace, podstate.name_of(lease))
