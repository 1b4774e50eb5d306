"""What a Pod object tells of a container: does it run, is it ready, what holds it up. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]

HOPELESS = frozenset(
    (
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImagePullBackOff",
        "ErrImagePull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "StartError",
    )
)
"""Reasons for waiting that do not pass by themselves; https://kubernetes.io/docs/concepts/containers/images/"""
BACK_OFF = "CrashLoopBackOff"


def name_of(item: Object) -> str:
    """Return an object's name."""
    return str(item["metadata"]["name"])


def status_of(pod: Object, container: str) -> Object:
    """Return a container's status; empty if the kubelet has told none."""
    statuses: Iterable[Object] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == container), {})


def spec_of(pod: Object, container: str) -> Object | None:
    """Return a container's specification; None if the pod has none of that name."""
    containers: Iterable[Object] = pod["spec"]["containers"]
    return next((spec for spec in containers if spec["name"] == container), None)


def is_running(pod: Object, container: str) -> bool:
    """Whether the container runs."""
    return "running" in (status_of(pod, container).get("state") or {})


def waiting_reason(pod: Object, container: str) -> tuple[str, str]:
    """Return why the container waits, as a word and a sentence; empty if it does not."""
    waiting = (status_of(pod, container).get("state") or {}).get("waiting") or {}
    return str(waiting.get("reason") or ""), " ".join(str(waiting.get("message") or "").split())


def is_leaving(pod: Object) -> bool:
    """Whether the pod is being deleted, or is through."""
    return bool(pod["metadata"].get("deletionTimestamp")) or is_through(pod)


def is_through(pod: Object) -> bool:
    """Whether all containers of the pod have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition holds."""
    conditions: Iterable[Object] = (pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def unschedulable(pod: Object) -> str:
    """Return why the scheduler finds no node; empty if it does."""
    conditions: Iterable[Object] = (pod.get("status") or {}).get("conditions") or []
    for one in conditions:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return " ".join(str(one.get("message") or one.get("reason") or "").split())
    return ""


def controller_of(item: Object) -> tuple[str, str] | None:
    """Return kind and name of the object that controls this one; None if nothing does."""
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["kind"]), str(owner["name"])
    return None
