"""Stands in for the daemon's control API: one engagement, as the contract has it."""

from __future__ import annotations

import threading
from typing import Any

from telewire.errors import NotFound, TeleError


class StandIn:
    """A ``Control`` that keeps what it was told. ``more`` changes the engagement."""

    def __init__(self, **more: Any) -> None:
        self.more = more
        self.asked: list[dict[str, Any]] = []
        self.handlers: list[tuple[str, str | None]] = []
        self.announced = threading.Event()
        self.active: dict[str, Any] | None = None
        self.failure: TeleError | None = None
        self.waited = 0

    def engage(self, request: dict[str, Any]) -> Any:
        self.asked.append(request)
        self.active = engagement(kind=request["kind"], name=request["name"], **self.more)
        return {**self.active, "state": "waiting"}

    def until_active(self, _id: str) -> Any:
        self.waited += 1
        if self.failure is not None:
            self.active = None
            raise self.failure
        return self.active

    def engagements(self) -> list[Any]:
        return [self.active] if self.active else []

    def handler(self, _id: str, address: str, _container: str, target: str | None = None) -> Any:
        self.handlers.append((address, target))
        self.announced.set()
        return self.active

    def disengage(self, _id: str) -> None:
        if self.active is None:
            raise NotFound("there is no such engagement")
        self.active = None


def engagement(**more: Any) -> Any:
    """Return an engagement as the daemon tells of it."""
    return {
        "id": "e1",
        "name": "web",
        "kind": "replace",
        "workload": "web",
        "workload_kind": "Deployment",
        "namespace": "default",
        "container": "app",
        "service": None,
        "state": "active",
        "since": "2026-01-01T00:00:00Z",
        "pods": ["web-1"],
        "ports": [{"local": 8080, "remote": 80, "protocol": "tcp"}],
        "environment": {"REMOTE": "a\nb", "PLAIN": "x"},
        "mounts": [],
        "not_mounted": [],
        "export": None,
        "to_pod": [],
        "copies": None,
        "handler": None,
        **more,
    }
