"""Tell of an engagement as Telepresence does: as text for people, as data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.model import Engagement

PAST = {"replace": "replaced", "intercept": "intercepted", "wiretap": "wiretapped", "ingest": "ingested"}
KEYS = {"intercept": "intercepts", "wiretap": "wiretaps", "ingest": "ingests", "replace": "replacements"}
"""The keys under which ``status --output json`` lists the engagements of each kind."""
_NAMED = {"intercept": "Intercept name", "wiretap": "Wiretap name"}
_TRAFFIC = {"replace": "Port forwards", "intercept": "Intercepting", "wiretap": "Wiretapping"}


def describe(engagement: Engagement, root: str | None = None, address: str | None = None) -> str:
    """Return an engagement as the few lines that Telepresence prints when it begins.

    :param root: the directory in the handler below which the volumes are
    :param address: where traffic goes if not to the handler
    """
    kind = engagement["kind"]
    rows = []
    if kind in _NAMED:
        rows.append((_NAMED[kind], engagement["name"]))
    rows.append(("Container name", engagement["container"]))
    rows.append(("State", engagement["state"].upper()))
    rows.append(("Workload kind", engagement["workload_kind"]))
    if engagement.get("service"):
        rows.append(("Service", str(engagement["service"])))
    if kind in _TRAFFIC:
        way = f"{_pods(engagement['pods'])} -> {address or 'the handler'}"
        ports = [
            f"\n       {port['remote']} -> {port['local']} {port['protocol'].upper()}" for port in engagement["ports"]
        ]
        rows.append((_TRAFFIC[kind], way + "".join(ports) if ports else "none"))
    for item in engagement.get("to_pod") or []:
        rows.append(("To pod", f"localhost:{item['port']} {item['protocol'].upper()}"))
    if root:
        rows.append(("Volume Mount Point", root))
    width = max(len(key) for key, _ in rows)
    lines = [f"   {key:<{width}}: {value}" for key, value in rows]
    return "\n".join([f"Using {engagement['workload_kind']} {engagement['workload']}", *lines])


def _pods(pods: Sequence[str]) -> str:
    return pods[0] if len(pods) == 1 else f"{len(pods)} pods"


def brief(engagement: Engagement) -> dict[str, Any]:
    """Return what ``--output json`` prints of an engagement; its keys are Telepresence's where that has them."""
    data: dict[str, Any] = {
        "id": engagement["id"],
        "name": engagement["name"],
        "kind": engagement["kind"],
        "disposition": engagement["state"].upper(),
        "workload": engagement["workload"],
        "workload_kind": engagement["workload_kind"],
        "namespace": engagement["namespace"],
        "container_name": engagement["container"],
        "ports": engagement["ports"],
    }
    if engagement["ports"]:
        first = engagement["ports"][0]
        data |= {"target_port": first["local"], "container_port": first["remote"], "protocol": first["protocol"]}
    return data


def whole(
    engagement: Engagement, variables: Mapping[str, str], root: str | None = None, address: str | None = None
) -> dict[str, Any]:
    """Return what ``--detailed-output`` prints: all that the daemon tells, and Telepresence's keys besides.

    :param variables: the environment that the handler gets
    """
    data: dict[str, Any] = {**engagement, **brief(engagement), "environment": dict(variables)}
    if address:
        data["target_host"] = address
    if engagement["mounts"]:
        data["mount"] = {
            "remote_dir": "/",
            "local_dir": root or "/",
            "mounts": [m["path"] for m in engagement["mounts"]],
        }
    return data
