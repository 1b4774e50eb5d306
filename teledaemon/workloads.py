"""Workloads of a namespace: finding one by name, its pods, its containers, and what can be engaged."""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import dataclass
from typing import Any

from teledaemon import podstate
from teledaemon.kube import Cluster, Object
from telewire import names
from telewire.errors import BadRequest, Forbidden, NotFound

KINDS = {
    "Deployment": "apps/v1/deployments",
    "StatefulSet": "apps/v1/statefulsets",
    "ReplicaSet": "apps/v1/replicasets",
    "DaemonSet": "apps/v1/daemonsets",
    "Pod": "pods",
}
"""In this order a name is looked up."""


class UnknownWorkload(NotFound):
    """There is no workload of that name; ``nearest`` holds names that are like it."""

    def __init__(self, text: str, nearest: list[str]) -> None:
        super().__init__(text)
        self.nearest = nearest


class ContainerNotChosen(BadRequest):
    """The workload has several containers and the caller chose none, or one that is not there."""

    def __init__(self, text: str, containers: list[str]) -> None:
        super().__init__(text)
        self.containers = containers


def _expression(expression: Object) -> str:
    key, operator, values = expression["key"], expression["operator"], ",".join(expression.get("values") or [])
    if operator == "Exists":
        return str(key)
    return f"!{key}" if operator == "DoesNotExist" else f"{key} {'in' if operator == 'In' else 'notin'} ({values})"


def selector(spec: Object) -> str:
    """Return a LabelSelector as the text that list and watch take."""
    parts = [f"{key}={value}" for key, value in (spec.get("matchLabels") or {}).items()]
    return ",".join(parts + [_expression(expression) for expression in spec.get("matchExpressions") or []])


@dataclass
class Workload:
    """One workload, as it was when it was read."""

    kind: str
    name: str
    namespace: str
    object: Object

    @property
    def template(self) -> Object:
        """The pod specification that it makes pods from; a bare pod's own."""
        spec: Object = self.object["spec"]
        return spec if self.kind == "Pod" else spec["template"]["spec"]

    @property
    def containers(self) -> list[str]:
        """The names of its containers."""
        return [str(container["name"]) for container in self.template["containers"]]

    @property
    def selector(self) -> str:
        """The label selector of its pods; a bare pod's own labels."""
        if self.kind == "Pod":
            labels = self.object["metadata"].get("labels") or {}
            return ",".join(f"{key}={value}" for key, value in labels.items())
        return selector(self.object["spec"]["selector"])

    @property
    def replicas(self) -> int:
        """How many pods are wanted."""
        status = self.object.get("status") or {}
        if self.kind == "DaemonSet":
            return int(status.get("desiredNumberScheduled") or 0)
        return 1 if self.kind == "Pod" else int(self.object["spec"].get("replicas", 1))

    @property
    def ready(self) -> int:
        """How many pods are ready."""
        status = self.object.get("status") or {}
        if self.kind == "Pod":
            return int(podstate.is_ready(self.object))
        return int(status.get("numberReady" if self.kind == "DaemonSet" else "readyReplicas") or 0)

    def has(self, pod: Object) -> bool:
        """Whether ``pod``, which the selector matches, is really one of its pods."""
        if self.kind == "Pod":
            return podstate.name_of(pod) == self.name
        owner = podstate.controller_of(pod)
        if owner is None:
            return False
        if self.kind == "Deployment":  # its ReplicaSets are named after it, with one more part
            return owner[0] == "ReplicaSet" and owner[1].rpartition("-")[0] == self.name
        return owner == (self.kind, self.name)

    def container(self, wanted: str | None) -> str:
        """Return the container that is meant. ContainerNotChosen if it has several, or none of that name."""
        there = ", ".join(self.containers)
        if wanted is None:
            if len(self.containers) > 1:
                raise ContainerNotChosen(
                    f"{self.name} has several containers: {there}; choose one with --container", self.containers
                )
            return self.containers[0]
        if wanted not in self.containers:
            raise ContainerNotChosen(
                f"{self.name} has no container {wanted!r}; choose one with --container: {there}", self.containers
            )
        return wanted

    async def pods(self, cluster: Cluster) -> list[Object]:
        """Return its pods that are not leaving."""
        if self.kind == "Pod":
            found = [await cluster.get("pods", self.namespace, self.name)]
        else:
            found = await cluster.list("pods", self.namespace, labelSelector=self.selector)
        return [pod for pod in found if self.has(pod) and not podstate.is_leaving(pod)]


async def _all(cluster: Cluster, namespace: str) -> list[Workload]:
    async def one(kind: str) -> list[Object] | Forbidden:
        try:
            return await cluster.list(KINDS[kind], namespace)
        except Forbidden as error:
            return error

    answers = await asyncio.gather(*(one(kind) for kind in KINDS))
    refused = [answer for answer in answers if isinstance(answer, Forbidden)]
    if len(refused) == len(KINDS):
        raise refused[0]
    return [
        Workload(kind, podstate.name_of(item), namespace, item)
        for kind, answer in zip(KINDS, answers, strict=True)
        if not isinstance(answer, Forbidden)
        for item in answer
        if podstate.controller_of(item) is None and not item["metadata"].get("deletionTimestamp")
    ]


def _is_ours(workload: Workload) -> bool:
    labels = workload.object["metadata"].get("labels") or {}
    return labels.get(names.KUBE_MANAGED_BY[0]) == names.KUBE_MANAGED_BY[1]


async def list_all(cluster: Cluster, namespace: str) -> list[Workload]:
    """Return the workloads of a namespace, but for those that another workload controls. Forbidden if none may be listed."""
    found = await _all(cluster, namespace)
    return sorted((w for w in found if not _is_ours(w)), key=lambda w: (w.name, list(KINDS).index(w.kind)))


async def find(cluster: Cluster, namespace: str, name: str) -> Workload:
    """Return the workload of that name; ``deployment/NAME`` and the like choose the kind. UnknownWorkload if there is none."""
    wanted_kind, slash, bare = name.rpartition("/")
    kinds = {kind.lower(): kind for kind in KINDS}
    kind = kinds.get(wanted_kind.lower().removesuffix("s")) if slash else None
    if slash and kind is None:
        raise BadRequest(f"{wanted_kind!r} is no kind of workload; use one of {', '.join(kinds)}")
    found = await list_all(cluster, namespace)
    for workload in found:
        if workload.name == bare and kind in (None, workload.kind):
            return workload
    candidates = sorted({workload.name for workload in found})
    nearest = difflib.get_close_matches(bare, candidates, 3, 0.5)
    hint = f"the nearest names are {', '.join(nearest)}" if nearest else "`telepresence list` shows what is there"
    raise UnknownWorkload(f"there is no workload {name!r} in namespace {namespace}; {hint}", nearest)


def describe(workload: Workload, engagements: list[str]) -> dict[str, Any]:
    """Return what the control API tells of it; ``reason`` says why it cannot be engaged, None if it can."""
    reason = None
    if workload.template.get("hostNetwork"):
        reason = "its pods use the host's network"
    elif not workload.replicas:
        reason = "it is scaled to zero"
    elif not workload.ready:
        reason = "no pod is ready"
    return {
        "name": workload.name,
        "kind": workload.kind,
        "namespace": workload.namespace,
        "replicas": workload.replicas,
        "ready": workload.ready,
        "containers": workload.containers,
        "engagements": engagements,
        "reason": reason,
    }
