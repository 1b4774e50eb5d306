"""Which UDP flow goes when there are too many."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from teledaemon import udp
from teledaemon.packets import Flow, Packet
from teledaemon.udp import UdpFlows


def datagram(target: str) -> tuple[Flow, Packet]:
    """A datagram to ``target`` and the flow it belongs to."""
    source, packed = bytes([10, 0, 0, 9]), ipaddress.ip_address(target).packed
    return Flow(source, 5000, packed, 7), Packet(4, source, packed, 17, bytes(8) + b"x", b"")


async def test_the_flow_that_was_idle_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def request(_session: Any, message: dict[str, Any], _timeout: float) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(message["host"])

    monkeypatch.setattr(udp, "request", request)
    monkeypatch.setattr(udp, "MOST_FLOWS", 2)
    flows = UdpFlows(lambda: None, lambda _packet: None)  # type: ignore[arg-type, return-value]
    for host in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"):
        flows.datagram(*datagram(host))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ended == ["10.0.0.2"]
    flows.close()
    await asyncio.sleep(0)
    assert sorted(ended) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
