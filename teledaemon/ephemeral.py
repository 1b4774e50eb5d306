"""Agents in ephemeral containers: what is put into a running pod, without a restart, for ``intercept``, ``wiretap`` and ``ingest``.

Two roles. ``net`` redirects ports: untargeted, for a targeted container dies with its target, and uid 0, for only that may have
NET_ADMIN without ambient capabilities. ``files`` mirrors the engaged container's ``env``, ``envFrom``, volumes and security context,
so that the kubelet itself gives it the same values and files.
https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from dataclasses import dataclass
from typing import Any

from teledaemon import podstate
from teledaemon.kube import STRATEGIC, Cluster, Invalid, NotAdmitted, Object
from telewire import names
from telewire.errors import Conflict, Forbidden

log = logging.getLogger(__name__)

NET, FILES = "net", "files"
PREFIX = "telepresence-"
VOLUMES = "/.telepresence"
"""Below this a ``files`` agent has the volumes: at their own paths they could hide parts of the agent."""
IDLE = 130
"""Seconds without a client after which an agent ends itself: longer than a session waits for its link."""
NOBODY = 65532
_COMMAND = ["/usr/bin/python3", "-I", "-m", "teleagent"]
_FIRST_PORT, _PORTS = 4051, 400
_CLIENT = "--client"


@dataclass(frozen=True)
class Spot:
    """Where an agent is: its container's name, and the port that it listens on."""

    container: str
    port: int


def free_port(pod: Object, beside: tuple[int, ...] = ()) -> int:
    """Return a port of the pod's loopback that no agent, no container that says so, and none of ``beside`` has."""
    taken = {*beside, names.AGENT_PORT}
    for container in pod["spec"]["containers"]:
        taken.update(int(port["containerPort"]) for port in container.get("ports") or [])
    running = {name for name, _ in _agents(pod) if is_alive(pod, name)}
    taken.update(spot.port for name, spot in _agents(pod) if name in running)
    start = int.from_bytes(os.urandom(2)) % _PORTS  # a port that a killed agent had may be in use for a while
    return next(port for i in range(_PORTS) if (port := _FIRST_PORT + (start + i) % _PORTS) not in taken)


def _agents(pod: Object) -> list[tuple[str, Spot]]:
    found = []
    for container in pod["spec"].get("ephemeralContainers") or []:
        name, words = str(container["name"]), list(container.get("command") or [])
        if name.startswith(PREFIX) and "--port" in words[:-1]:
            found.append((name, Spot(name, int(words[words.index("--port") + 1]))))
    return found


def of_client(pod: Object, client: str) -> list[Spot]:
    """Return the agents of a client that may still run in a pod."""
    ours = []
    for container in pod["spec"].get("ephemeralContainers") or []:
        words = container.get("command") or []
        if _CLIENT in words and words[-1] == client and is_alive(pod, str(container["name"])):
            ours += [spot for name, spot in _agents(pod) if name == container["name"]]
    return ours


def status_of(pod: Object, name: str) -> Object:
    """Return the state that the kubelet tells of an ephemeral container: ``waiting``, ``running`` or ``terminated``; {} if none."""
    statuses = (pod.get("status") or {}).get("ephemeralContainerStatuses") or []
    state: Object = next((one.get("state") or {} for one in statuses if one.get("name") == name), {})
    return state


def is_alive(pod: Object, name: str) -> bool:
    """Whether an ephemeral container runs or may still begin to."""
    return "terminated" not in status_of(pod, name)


def _container(role: str, spot: Spot, image: str, pull_policy: str, client: str, token: str) -> Object:
    digest = hashlib.sha256(token.encode()).hexdigest()
    more = ["--port", str(spot.port), "--exit-when-idle", str(IDLE), "--token-sha256", digest, _CLIENT, client]
    return {
        "name": spot.container,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": [*_COMMAND, *more],
        "terminationMessagePolicy": "FallbackToLogsOnError" if role == FILES else "File",
    }


def new_spot(pod: Object, role: str, beside: tuple[int, ...] = ()) -> Spot:
    """Return a fresh name, for one that was used can never be used again, and a free port."""
    return Spot(f"{PREFIX}{role}-{os.urandom(3).hex()}", free_port(pod, beside))


def net_agent(spot: Spot, image: str, pull_policy: str, client: str, token: str) -> Object:
    """Return the container that redirects ports."""
    return {
        **_container(NET, spot, image, pull_policy, client, token),
        "securityContext": {
            "runAsUser": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
    }


def files_agent(pod: Object, target: str, spot: Spot, image: str, pull_policy: str, client: str, token: str) -> Object:
    """Return the container that mirrors ``target``: its environment, its volumes below :data:`VOLUMES`, its rights."""
    spec = podstate.spec_of(pod, target) or {}
    container = _container(FILES, spot, image, pull_policy, client, token)
    if spec.get("env"):
        container["env"] = [_own_resources(entry, target) for entry in copy.deepcopy(spec["env"])]
    if spec.get("envFrom"):
        container["envFrom"] = copy.deepcopy(spec["envFrom"])
    read_only: dict[str, bool] = {}
    for mount in spec.get("volumeMounts") or []:
        read_only[mount["name"]] = read_only.get(mount["name"], True) and bool(mount.get("readOnly"))
    if read_only:
        container["volumeMounts"] = [
            {"name": name, "mountPath": f"{VOLUMES}/{name}", "readOnly": only} for name, only in read_only.items()
        ]
    container["securityContext"] = _rights(pod, spec)
    return container


def _own_resources(entry: Object, target: str) -> Object:
    reference = (entry.get("valueFrom") or {}).get("resourceFieldRef")
    if reference is not None and not reference.get("containerName"):
        reference["containerName"] = target
    return entry


def _rights(pod: Object, spec: Object) -> Object:
    """Return the target's security context; where it says "not root" but not who, since its image does, somebody who is not root."""
    own: Object = copy.deepcopy(spec.get("securityContext") or {})
    whole = pod["spec"].get("securityContext") or {}
    for needless in ("privileged", "procMount"):
        own.pop(needless, None)
    not_root = own.get("runAsNonRoot", whole.get("runAsNonRoot"))
    if not_root and own.get("runAsUser", whole.get("runAsUser")) is None:
        own["runAsUser"] = NOBODY
    return own


def directory(mount: Object) -> str | None:
    """Return where a ``files`` agent has what the target has at ``mount``; None if only the kubelet can tell (``subPathExpr``)."""
    if mount.get("subPathExpr"):
        return None
    below = f"/{str(mount['subPath']).strip('/')}" if mount.get("subPath") else ""
    return f"{VOLUMES}/{mount['name']}{below}"


async def inject(cluster: Cluster, pod: Object, containers: list[Object]) -> Object:
    """Put agents into a pod; return the pod. Conflict if they do not fit, Forbidden with the reason if it may not be."""
    changed = await _patch(cluster, pod, containers, dry_run=False)
    log.info("pod %s: put in %s", podstate.name_of(pod), ", ".join(str(one["name"]) for one in containers))
    return changed


async def check(cluster: Cluster, pod: Object, containers: list[Object], kind: str) -> None:
    """Find out, changing nothing, whether agents may be put into a pod. Forbidden with what is not possible and why."""
    try:
        await _patch(cluster, pod, containers, dry_run=True)
    except NotAdmitted as error:
        reason = str(error).partition("violates ")[2] or str(error)
        raise Forbidden(
            f"{kind} is not possible in namespace {pod['metadata']['namespace']}: it needs a container with NET_ADMIN, which "
            f"the namespace's {reason}; use `ingest` or `replace`, which need none"
            if any("NET_ADMIN" in str(one) for one in containers)
            else f"{kind} is not possible in namespace {pod['metadata']['namespace']}, whose {reason}"
        ) from None


async def _patch(cluster: Cluster, pod: Object, containers: list[Object], *, dry_run: bool) -> Object:
    body: dict[str, Any] = {"spec": {"ephemeralContainers": containers}}
    name = podstate.name_of(pod)
    try:
        return await cluster.patch(
            "pods", pod["metadata"]["namespace"], name, body, STRATEGIC, "ephemeralcontainers", dry_run=dry_run
        )
    except Invalid as error:
        raise Conflict(f"no agent can be put into pod {name}: {error}") from None
