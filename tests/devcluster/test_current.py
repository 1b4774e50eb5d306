"""A node that was started again is not taken for ready by what it said before."""

from __future__ import annotations

from typing import Any

import pytest

from devcluster.cluster import is_current

BEFORE, SINCE, AFTER = "2026-01-02T03:04:04Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05Z"


def node(status: str, heartbeat: str) -> dict[str, Any]:
    kinds = {"MemoryPressure": "False", "Ready": status}
    conditions = [{"type": kind, "status": said, "lastHeartbeatTime": heartbeat} for kind, said in kinds.items()]
    return {"kind": "Node", "status": {"conditions": conditions}}


def pod(*states: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Pod", "status": {"containerStatuses": [{"state": state} for state in states]} if states else {}}


@pytest.mark.parametrize(
    ("items", "current"),
    [
        ([], False),
        ([{"kind": "Node", "status": {}}], False),
        ([node("True", AFTER)], True),
        ([node("True", BEFORE)], False),
        ([node("False", AFTER)], False),
        ([node("True", AFTER), node("True", BEFORE)], False),
        ([node("True", AFTER), pod()], True),
        ([node("True", AFTER), pod({"running": {"startedAt": AFTER}})], True),
        ([node("True", AFTER), pod({"running": {"startedAt": AFTER}}, {"running": {"startedAt": BEFORE}})], False),
        ([node("True", AFTER), pod({"waiting": {"reason": "CrashLoopBackOff"}})], True),
        ([node("True", AFTER), pod({"terminated": {"startedAt": BEFORE}})], True),
        ([pod({"running": {"startedAt": AFTER}})], False),
    ],
)
def test_only_what_was_said_since_the_start_counts(items: list[dict[str, Any]], current: bool) -> None:
    assert is_current({"items": items}, SINCE) is current
