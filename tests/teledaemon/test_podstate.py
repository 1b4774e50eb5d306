"""What a Pod object tells of a container."""

from __future__ import annotations

from typing import Any

import pytest

from teledaemon import podstate

Object = dict[str, Any]


def pod(*statuses: Object, conditions: list[Object] | None = None, phase: str = "Running", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "web-5d8-abc", **metadata},
        "spec": {"containers": [{"name": "app", "image": "a:1"}, {"name": "side", "image": "b:1"}]},
        "status": {"phase": phase, "containerStatuses": list(statuses), "conditions": conditions},
    }


BARE: Object = {"metadata": {"name": "new"}, "spec": {"containers": [{"name": "app"}]}}
"""As the API server answers before the kubelet has seen it."""


def test_a_pod_of_which_nothing_is_known_yet() -> None:
    assert podstate.name_of(BARE) == "new"
    assert podstate.status_of(BARE, "app") == {}
    assert podstate.waiting_reason(BARE, "app") == ("", "")
    assert podstate.unschedulable(BARE) == ""
    assert podstate.controller_of(BARE) is None
    assert not podstate.is_running(BARE, "app")
    assert not podstate.is_leaving(BARE)
    assert not podstate.is_ready(BARE)
    assert not podstate.is_ready({**BARE, "status": {"conditions": None, "containerStatuses": None}})


def test_each_container_has_its_own_state() -> None:
    one = pod(
        {"name": "app", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
        {"name": "side", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off\n  pulling image"}}},
    )
    assert podstate.is_running(one, "app")
    assert not podstate.is_running(one, "side")
    assert not podstate.is_running(one, "other")
    assert podstate.waiting_reason(one, "app") == ("", "")
    assert podstate.waiting_reason(one, "side") == ("ImagePullBackOff", "Back-off pulling image")
    assert (podstate.spec_of(one, "side") or {})["image"] == "b:1"
    assert podstate.spec_of(one, "other") is None


def test_a_running_container_may_lack_everything_in_its_state() -> None:
    assert podstate.is_running(pod({"name": "app", "state": {"running": {}}}), "app")


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", podstate.BACK_OFF])
def test_reasons_that_pass(reason: str) -> None:
    assert reason not in podstate.HOPELESS


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "CreateContainerError"])
def test_reasons_that_do_not_pass(reason: str) -> None:
    assert reason in podstate.HOPELESS


@pytest.mark.parametrize(
    ("one", "leaving"),
    [
        (pod(), False),
        (pod(phase="Pending"), False),
        (pod(phase="Unknown"), False),
        (pod(phase="Succeeded"), True),
        (pod(phase="Failed"), True),
        (pod(deletionTimestamp="2026-01-01T00:00:00Z"), True),
    ],
)
def test_which_pods_are_leaving(one: Object, leaving: bool) -> None:
    assert podstate.is_leaving(one) is leaving


def test_a_pod_is_ready_by_its_own_condition() -> None:
    assert podstate.is_ready(pod(conditions=[{"type": "Ready", "status": "True"}]))
    assert not podstate.is_ready(pod(conditions=[{"type": "Ready", "status": "False"}]))
    assert not podstate.is_ready(pod(conditions=[{"type": "ContainersReady", "status": "True"}]))


def test_why_no_node_is_found() -> None:
    refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert podstate.unschedulable(pod(conditions=[refused])) == "Unschedulable"
    told = {**refused, "message": "0/1 nodes are available:\n1 Insufficient cpu."}
    assert podstate.unschedulable(pod(conditions=[told])) == "0/1 nodes are available: 1 Insufficient cpu."
    assert podstate.unschedulable(pod(conditions=[{"type": "PodScheduled", "status": "True"}])) == ""


def test_only_a_controller_counts_as_owner() -> None:
    owners = [{"kind": "Node", "name": "n"}, {"kind": "ReplicaSet", "name": "web-5d8", "controller": True}]
    assert podstate.controller_of(pod(ownerReferences=owners)) == ("ReplicaSet", "web-5d8")
    assert podstate.controller_of(pod(ownerReferences=owners[:1])) is None
