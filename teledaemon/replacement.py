"""``replace`` in place: the image of a running pod's container becomes the agent's, and goes back.

Kubernetes lets the image of a running pod be changed, and the kubelet restarts that one container: same pod, same address, same
environment and volumes (https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement). An annotation of the pod says
what was there before and who did it, so that it can be put back by anybody who has the right to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from teledaemon import podstate
from teledaemon.kube import JSON_PATCH, Cluster, Invalid, Object
from telewire import names
from telewire.errors import Conflict, Forbidden, NotFound

log = logging.getLogger(__name__)

BACK_TIMEOUT = 60.0
"""Seconds that the original may take to be ready again; what it does after that is its own."""
BACK_OFF_SEEN = 1.0
"""Seconds that the kubelet must hold a container back before its pod is given up for a new one."""
ATTEMPTS = 5


@dataclass(frozen=True)
class Record:
    """What the annotation holds."""

    client: str
    owner: str
    connection: str
    since: str
    container: str
    image: str
    image_id: str = ""
    original: dict[str, Any] | None = None
    """Of a template: what the container had under the keys that were changed."""

    def text(self) -> str:
        """Return the annotation's value."""
        return json.dumps({"v": 1, **asdict(self)}, sort_keys=True)


def record_of(item: Object) -> Record | None:
    """Return what a pod's or a workload's annotation says; None if it has none. Conflict if another version wrote it."""
    text = (item["metadata"].get("annotations") or {}).get(names.KUBE_ANNOTATION_REPLACED)
    if not text:
        return None
    try:
        fields = json.loads(text)
        if fields.pop("v") != 1:
            raise ValueError("another version")
        return Record(**fields)
    except (ValueError, KeyError, TypeError):
        raise Conflict(
            f"{podstate.name_of(item)} is replaced by another version of Telepresence; end that engagement there"
        ) from None


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


ANNOTATION = f"/metadata/annotations/{_pointer(names.KUBE_ANNOTATION_REPLACED)}"


def _index(pod: Object, container: str) -> int:
    return [str(one["name"]) for one in pod["spec"]["containers"]].index(container)


async def put_in(cluster: Cluster, pod: Object, record: Record, agent_image: str) -> None:
    """Put the agent in the container's place. Conflict if somebody else was first."""
    where = f"/spec/containers/{_index(pod, record.container)}"
    operations: list[Object] = [
        {"op": "test", "path": f"{where}/name", "value": record.container},
        {"op": "test", "path": f"{where}/image", "value": record.image},
        {"op": "replace", "path": f"{where}/image", "value": agent_image},
    ]
    if pod["metadata"].get("annotations"):
        operations.append({"op": "add", "path": ANNOTATION, "value": record.text()})
    else:
        operations.append(
            {"op": "add", "path": "/metadata/annotations", "value": {names.KUBE_ANNOTATION_REPLACED: record.text()}}
        )
    name = podstate.name_of(pod)
    try:
        await cluster.patch("pods", pod["metadata"]["namespace"], name, operations, JSON_PATCH)
    except Invalid as error:
        raise Conflict(f"pod {name} has changed while it was to be replaced; try again ({error})") from None


async def put_back(cluster: Cluster, namespace: str, name: str) -> None:
    """Put the original back in a pod that bears our annotation, and wait until it is ready. No error if the pod is gone.

    The kubelet holds back a container that it has started several times of late. A pod that has a controller is then deleted for
    the controller to make a new one, which is the original as well.
    """
    for attempt in range(ATTEMPTS):
        try:
            pod = await cluster.get("pods", namespace, name)
            record = record_of(pod)
            if record is None or podstate.is_leaving(pod):
                return
            await cluster.patch("pods", namespace, name, _undoing(pod, record), JSON_PATCH)
        except NotFound:
            return
        except (Invalid, Conflict) as error:
            if attempt == ATTEMPTS - 1:
                raise
            log.info("putting back %s: %s; again", name, error)
            await asyncio.sleep(0.2)
            continue
        log.info("put back %s in pod %s", record.image, name)
        await _wait_back(cluster, namespace, name, record, podstate.status_of(pod, record.container))
        return


def _undoing(pod: Object, record: Record) -> list[Object]:
    where = f"/spec/containers/{_index(pod, record.container)}"
    annotations = pod["metadata"]["annotations"]
    alone = len(annotations) == 1
    return [
        {"op": "test", "path": f"{where}/name", "value": record.container},
        {"op": "test", "path": ANNOTATION, "value": annotations[names.KUBE_ANNOTATION_REPLACED]},
        {"op": "replace", "path": f"{where}/image", "value": record.image},
        {"op": "remove", "path": "/metadata/annotations" if alone else ANNOTATION},
    ]


async def _wait_back(cluster: Cluster, namespace: str, name: str, record: Record, before: Object) -> None:
    deadline = time.monotonic() + BACK_TIMEOUT
    held_since: float | None = None
    while time.monotonic() < deadline:
        try:
            pod = await cluster.get("pods", namespace, name)
        except NotFound:
            return
        if podstate.is_leaving(pod) or _is_back(pod, record, before):
            return
        if podstate.waiting_reason(pod, record.container)[0] == podstate.BACK_OFF:
            held_since = held_since or time.monotonic()
            if time.monotonic() - held_since > BACK_OFF_SEEN and await renew(cluster, pod):
                return
        else:
            held_since = None
        await asyncio.sleep(0.1)
    log.warning("the original of pod %s is put back, but not ready after %.0f s", name, BACK_TIMEOUT)


def _is_back(pod: Object, record: Record, before: Object) -> bool:
    status: dict[str, Any] = podstate.status_of(pod, record.container)
    if not podstate.is_running(pod, record.container) or not status.get("ready"):
        return False
    if record.image_id and status.get("imageID") == record.image_id:
        return True
    return bool(status.get("containerID") != before.get("containerID"))


async def renew(cluster: Cluster, pod: Object) -> bool:
    """Delete a pod whose controller makes a new one; return whether that could be done."""
    if podstate.controller_of(pod) is None:
        return False
    name = podstate.name_of(pod)
    try:
        await cluster.delete("pods", pod["metadata"]["namespace"], name)
    except Forbidden as error:
        log.info("pod %s is held back by the kubelet and may not be deleted: %s", name, error)
        return False
    log.info("pod %s was held back by the kubelet; its controller makes a new one", name)
    return True


async def recover(cluster: Cluster, namespace: str, client: str) -> int:
    """Put back every pod of the namespace that this client has left replaced; return how many there were."""
    ours = []
    for pod in await cluster.list("pods", namespace):
        try:
            record = record_of(pod)
        except Conflict:
            continue
        if record is not None and record.client == client and not podstate.is_leaving(pod):
            ours.append(podstate.name_of(pod))
    await asyncio.gather(*(put_back(cluster, namespace, name) for name in ours))
    return len(ours)
