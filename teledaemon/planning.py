"""What the body of ``POST /v1/engagements`` means: looked up in the cluster and checked, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teledaemon import ports, workloads
from teledaemon.engagement import Plan
from teledaemon.kube import Cluster, Object
from teledaemon.topod import ToPod
from teledaemon.workloads import Workload
from telewire import __version__
from telewire.errors import BadRequest, Forbidden, NotFound

KINDS = ("replace", "intercept", "wiretap", "ingest")
DEFAULT_PORT = 8080
"""The handler's port of an ``intercept`` or ``wiretap`` without ``--port``."""


async def plan(cluster: Cluster, namespace: str, body: Mapping[str, Any]) -> Plan:
    """Return the plan. BadRequest, NotFound with one line on what is wrong."""
    kind = str(body.get("kind") or "")
    if kind not in KINDS:
        raise BadRequest(
            f"this daemon ({__version__}) knows no engagement of the kind {kind!r}; use one of {', '.join(KINDS)}"
        )
    workload = await workloads.find(cluster, namespace, str(body.get("workload") or ""))
    name = str(body.get("name") or workload.name)
    to_pod = [ToPod.parse(str(text)) for text in body.get("to_pod") or []]
    wanted, service = [str(port) for port in body.get("ports") or []], body.get("service") or None
    if workload.template.get("hostNetwork") and kind != "ingest":
        raise BadRequest(
            f"{workload.name} uses its node's network, whose ports cannot be taken; only `ingest` is possible with it"
        )
    if kind == "ingest":
        if wanted or service:
            raise BadRequest("an ingest takes no traffic; leave out the ports and the service")
        return Plan(kind, name, workload, workload.container(body.get("container") or None), [], None, to_pod)
    services = await _services(cluster, workload, str(service) if service else None)
    if kind == "replace":
        container = workload.container(body.get("container") or None)
        spec = next(one for one in workload.template["containers"] if one["name"] == container)
        return Plan(kind, name, workload, container, ports.resolve(wanted, spec, services), None, to_pod)
    if chosen := body.get("container"):
        workload.container(str(chosen))
    found, container = ports.redirected(
        wanted,
        workload.template["containers"],
        services,
        str(chosen) if chosen else None,
        DEFAULT_PORT,
        of_services=bool(service),
    )
    return Plan(kind, name, workload, container, found, str(service) if service else None, to_pod)


async def _services(cluster: Cluster, workload: Workload, chosen: str | None) -> list[Object]:
    """Return the Services that lead to the workload; the one of that name if it is ``chosen``. NotFound names those that do."""
    try:
        found = await cluster.list("services", workload.namespace)
    except Forbidden:
        if chosen:
            raise
        return []
    leading = [service for service in found if ports.selects(service, pod_labels(workload))]
    if chosen is None:
        return leading
    there = {str(service["metadata"]["name"]): service for service in leading}
    if chosen not in there:
        listed = ", ".join(there) or "none"
        raise NotFound(f"no Service {chosen!r} leads to {workload.name}; those that do: {listed}")
    return [there[chosen]]


def pod_labels(workload: Workload) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    holder = workload.object if workload.kind == "Pod" else workload.object["spec"]["template"]
    labels: dict[str, str] = (holder.get("metadata") or {}).get("labels") or {}
    return labels
