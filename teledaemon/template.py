"""``replace`` by the pod template, for containers whose place an image alone cannot take: those with a ``command``, or with probes that
only they can answer. The controller rolls the change out; an annotation of the workload keeps what was there.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

from teledaemon import podstate, workloads
from teledaemon.kube import JSON_PATCH, Cluster, Invalid, Object
from teledaemon.ports import PROBES, is_answerable
from teledaemon.replacement import ANNOTATION, ATTEMPTS, Record, record_of
from teledaemon.workloads import Workload
from telewire import names
from telewire.errors import BadRequest, Conflict, Forbidden, NotFound, TeleError

log = logging.getLogger(__name__)

KEYS = ("image", "imagePullPolicy", "command", "args", "lifecycle", *PROBES)
_CONTAINERS = "/spec/template/spec/containers"


def with_agent(container: Object, image: str, pull_policy: str) -> Object:
    """Return the template's container with the agent in its place: everything else stays, also the probes that an agent can answer."""
    changed = copy.deepcopy(container)
    for key in ("command", "args", "lifecycle"):
        changed.pop(key, None)
    for probe in PROBES:
        if probe in changed and not is_answerable(changed[probe]):
            del changed[probe]
    changed["image"], changed["imagePullPolicy"] = image, pull_policy
    return changed


def _index(workload: Object, container: str) -> int:
    return [str(one["name"]) for one in workload["spec"]["template"]["spec"]["containers"]].index(container)


async def put_in(cluster: Cluster, workload: Workload, record: Record, image: str, pull_policy: str) -> None:
    """Put the agent in the container's place in the template. Conflict if somebody else was first; BadRequest for a bare pod."""
    if workload.kind == "Pod":
        raise BadRequest(
            f"container {record.container} of pod {workload.name} cannot be replaced: it has a command of its own, or probes that "
            "only it can answer, and no controller would make the pod anew; use `intercept` or `ingest`"
        )
    index = _index(workload.object, record.container)
    container = workload.object["spec"]["template"]["spec"]["containers"][index]
    where = f"{_CONTAINERS}/{index}"
    operations: list[Object] = [
        {"op": "test", "path": where, "value": container},
        {"op": "replace", "path": where, "value": with_agent(container, image, pull_policy)},
    ]
    original = {key: container[key] for key in KEYS if key in container}
    text = Record(**{**vars(record), "original": original}).text()
    if workload.object["metadata"].get("annotations"):
        operations.append({"op": "add", "path": ANNOTATION, "value": text})
    else:
        value = {names.KUBE_ANNOTATION_REPLACED: text}
        operations.append({"op": "add", "path": "/metadata/annotations", "value": value})
    kind = workloads.KINDS[workload.kind]
    try:
        await cluster.patch(kind, workload.namespace, workload.name, operations, JSON_PATCH)
    except Invalid as error:
        raise Conflict(f"{workload.name} has changed while it was to be replaced; try again ({error})") from None
    await _renew_pods(cluster, workload)


async def put_back(cluster: Cluster, kind: str, namespace: str, name: str) -> None:
    """Put the original back in a template that bears our annotation. No error if the workload is gone.

    What somebody else has changed meanwhile stays; if that is the container's image, it is theirs already and only the annotation goes.
    """
    for attempt in range(ATTEMPTS):
        try:
            found = await cluster.get(workloads.KINDS[kind], namespace, name)
            record = record_of(found)
            if record is None:
                return
            await cluster.patch(workloads.KINDS[kind], namespace, name, _undoing(found, record), JSON_PATCH)
        except NotFound:
            return
        except (Invalid, Conflict) as error:
            if attempt == ATTEMPTS - 1:
                raise
            log.info("putting back %s: %s; again", name, error)
            await asyncio.sleep(0.2)
            continue
        log.info("put back %s in the template of %s", record.image, name)
        await _renew_pods(cluster, Workload(kind, name, namespace, found))
        return


def _undoing(found: Object, record: Record) -> list[Object]:
    annotations = found["metadata"]["annotations"]
    operations: list[Object] = [
        {"op": "test", "path": ANNOTATION, "value": annotations[names.KUBE_ANNOTATION_REPLACED]},
        {"op": "remove", "path": "/metadata/annotations" if len(annotations) == 1 else ANNOTATION},
    ]
    containers = found["spec"]["template"]["spec"]["containers"]
    index = next((i for i, one in enumerate(containers) if one["name"] == record.container), None)
    original: dict[str, Any] = record.original or {}
    if index is None or containers[index]["image"] == original.get("image"):
        return operations
    restored = {key: value for key, value in containers[index].items() if key not in KEYS} | original
    where = f"{_CONTAINERS}/{index}"
    return [
        *operations,
        {"op": "test", "path": where, "value": containers[index]},
        {"op": "replace", "path": where, "value": restored},
    ]


async def _renew_pods(cluster: Cluster, workload: Workload) -> None:
    """Delete the pods where the controller does not do it: a bare ReplicaSet, and those with the strategy ``OnDelete``."""
    strategy = workload.object["spec"].get("updateStrategy") or {}
    if workload.kind != "ReplicaSet" and strategy.get("type") != "OnDelete":
        return
    for pod in await workload.pods(cluster):
        try:
            await cluster.delete("pods", workload.namespace, podstate.name_of(pod))
        except Forbidden as error:
            raise Forbidden(
                f"{error}; the pods of {workload.name} take up the change only when they are made anew"
            ) from None


async def recover(cluster: Cluster, namespace: str, client: str) -> int:
    """Put back every template of the namespace that this client has left replaced; return how many there were."""
    left = []
    for kind in ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet"):
        try:
            found = await cluster.list(workloads.KINDS[kind], namespace)
        except Forbidden:
            continue  # who may not list them has replaced none
        for item in found:
            try:
                record = record_of(item)
            except Conflict:
                continue
            if record is not None and record.client == client and podstate.controller_of(item) is None:
                left.append((kind, podstate.name_of(item)))
    await asyncio.gather(*(put_back(cluster, kind, namespace, name) for kind, name in left))
    return len(left)


async def wait_rolled_out(cluster: Cluster, workload: Workload, image: str, container: str, seconds: float) -> None:
    """Wait until every pod of the workload has ``image`` again and is ready; what it does after ``seconds`` is its own."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        try:
            pods = await workload.pods(cluster)
        except NotFound:
            return
        except TeleError as error:
            log.info("waiting for %s: %s", workload.name, error)
            pods = []
        images = [str((podstate.spec_of(pod, container) or {}).get("image")) for pod in pods]
        if (
            len(pods) >= min(workload.replicas, 1)
            and all(one == image for one in images)
            and all(map(podstate.is_ready, pods))
        ):
            return
        await asyncio.sleep(0.2)
    log.warning("the original of %s is put back, but not ready after %.0f s", workload.name, seconds)
