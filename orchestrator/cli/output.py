"""Print data on stdout: text for people, JSON or YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.describing import KEYS, PAST
from orchestrator.model import Engagement, Status, Workload

_STATES = {
    "connected": "Connected",
    "reconnecting": "Connected, but the link is broken and is being mended",
    "connecting": "Connecting",
    "idle": "Not connected",
    "failed": "Not connected, error talking to cluster",
}


def emit(data: object, form: str, text: str) -> None:
    """Print ``data`` as JSON or YAML, or ``text`` for the default form."""
    if form == "json":
        print(json.dumps(data, indent=2, ensure_ascii=False))
    elif form == "yaml":
        import yaml

        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
    elif text:
        print(text)


def status_data(name: str | None, status: Status | None, error: str | None, port: int | None = None) -> dict[str, Any]:
    """Return one connection as ``status --output json`` shows it; the keys are Telepresence's where it has them."""
    engaged: dict[str, list[dict[str, Any]]] = {key: [] for key in KEYS.values()}
    if status is None:
        data: dict[str, Any] = {"running": False, "in_docker": True, "status": "Not connected"}
        if name is not None:
            data |= {"name": name, "error": error}
        return {"daemon": data | engaged}
    for engagement in status["engagements"]:
        told = {key: value for key, value in engagement.items() if key != "environment"}
        engaged.setdefault(KEYS.get(engagement["kind"], engagement["kind"]), []).append(told)
    return {
        "daemon": {
            "running": True,
            "in_docker": True,
            "name": name,
            "daemon_port": port,
            "container_network": name,
            "version": status["version"],
            "status": _STATES.get(status["state"], status["state"]),
            "since": status.get("since"),
            "error": status.get("error"),
            "kubernetes_server": status.get("server"),
            "kubernetes_context": status.get("context"),
            "namespace": status.get("namespace"),
            "client_id": status.get("client_id"),
            "gateway": status.get("gateway"),
            "subnets": status.get("subnets"),
            "dns": status.get("dns"),
            "tunnels": status.get("tunnels", []),
            **engaged,
        }
    }


def status_text(data: dict[str, Any]) -> str:
    """Return one connection as a person reads it."""
    found = data["daemon"]
    lines = [f"{found['name']}: {found['status']}"]
    if found.get("error"):
        lines.append(f"  Error      : {found['error']}")
    if not found["running"] or not found["kubernetes_context"]:
        return "\n".join(lines)
    gateway = found["gateway"] or {}
    subnets = found["subnets"] or {}
    rows = [
        ("Context", f"{found['kubernetes_context']} ({found['kubernetes_server']})"),
        ("Namespace", found["namespace"]),
        ("Network", found["container_network"]),
        ("Gateway", f"{gateway['pod']} on {gateway['node']}" if gateway else "none"),
        ("Subnets", ", ".join([*subnets.get("service", []), *subnets.get("pod", [])]) or "none"),
        ("Version", f"v{found['version']}"),
    ]
    lines += [f"  {key:<11}: {value}" for key, value in rows]
    for tunnel in found["tunnels"]:
        why = f" ({tunnel['error']})" if tunnel.get("error") else ""
        lines.append(f"  Tunnel     : {tunnel['pod']} {tunnel['state']}{why}")
    for kind, key in KEYS.items():
        for engagement in found[key]:
            lines.append(f"  {PAST[kind].capitalize():<11}: {engagement_text(engagement)}")
    return "\n".join(lines)


def engagement_text(engagement: Engagement | dict[str, Any]) -> str:
    """Return an engagement on one line."""
    ports = ", ".join(f"{port['remote']}->{port['local']}/{port['protocol']}" for port in engagement["ports"])
    parts = [f"{engagement['workload_kind'].lower()} {engagement['workload']}", f"container {engagement['container']}"]
    if engagement["name"] != engagement["workload"]:
        parts.insert(0, engagement["name"])
    parts.append(engagement["state"])
    if ports:
        parts.append(f"ports {ports}")
    if copies := engagement.get("copies"):
        parts.append(f"{copies['sent']} copies here, {copies['lost']} lost")
    return ", ".join(parts)


def list_data(
    workloads: Sequence[Workload], engagements: Sequence[Engagement], only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return workloads as ``list --output json`` shows them, with the names of their engagements by kind.

    :param only: keys of kinds, of which a workload is to have one; none: all workloads
    """
    found = []
    for workload in workloads:
        kinds: dict[str, list[str]] = {key: [] for key in KEYS.values()}
        for engagement in engagements:
            if (engagement["workload_kind"], engagement["workload"]) == (workload["kind"], workload["name"]):
                kinds.setdefault(KEYS.get(engagement["kind"], engagement["kind"]), []).append(engagement["name"])
        if not only or any(kinds[key] for key in only):
            found.append({**workload, **kinds})
    return found


def list_text(workloads: Sequence[dict[str, Any]]) -> str:
    """Return what :func:`list_data` has found as a person reads it."""
    lines = []
    for workload in workloads:
        states = []
        for kind, key in KEYS.items():
            other = [name for name in workload[key] if name != workload["name"]]
            if workload[key]:
                states.append(PAST[kind] + (f" ({', '.join(other)})" if other else ""))
        if workload.get("reason") and not states:
            states.append(f"not engageable: {workload['reason']}")
        ready = f"{workload['ready']}/{workload['replicas']} ready"
        lines.append(
            f"{workload['kind'].lower()} {workload['name']}: {', '.join(states) or 'ready to engage'} ({ready})"
        )
    return "\n".join(lines) or "No Workloads (Deployments, StatefulSets, ReplicaSets, DaemonSets or Pods)"
