"""Bulk bytes and small requests through the VIF, beside a bare WebSocket and ``kubectl port-forward``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.manifests import BULK_PORT, SERVER, SMALL_PORT
from bench.portforward import port_forward
from bench.stage import NAMESPACE, Stage, interleaved
from bench.table import Row, Target, median

SIZE = 500_000_000
ROUNDS = 5
GETS = 100
ROUND_TRIP = 20


def _rate(seconds: float) -> float:
    return SIZE / seconds / 1e6


def through_vif(stage: Stage, direction: str, _round: int = 0) -> float:
    """Return the MB/s of one transfer from a container on the connection's network."""
    inside = stage.client(inside=True)
    return _rate(stage.measure(inside, "client", direction, stage.server, BULK_PORT, SIZE))


def _by_port(stage: Stage, direction: str, port: int, _round: int = 0) -> float:
    outside = stage.client(inside=False)
    return _rate(stage.measure(outside, "client", direction, "127.0.0.1", port, SIZE))


def _by_websocket(stage: Stage, direction: str, _round: int = 0) -> float:
    outside, arguments = stage.client(inside=False), (direction, NAMESPACE, SERVER, BULK_PORT, SIZE)
    return _rate(stage.measure(outside, "websocket", *arguments, given=stage.near_document))


def bulk(stage: Stage) -> Iterator[Row]:
    """One flow in each direction, against both peers."""
    stage.connect()
    with port_forward(stage, SERVER, BULK_PORT) as port:
        for direction in ("download", "upload"):
            ours, websocket, kubectl = interleaved(
                ROUNDS,
                partial(through_vif, stage, direction),
                partial(_by_websocket, stage, direction),
                partial(_by_port, stage, direction, port),
            )
            value = median(ours)
            yield Row(f"{direction}/websocket", value, "MB/s", median(websocket), Target("≥", 1.0, "ratio"))
            yield Row(f"{direction}/kubectl", value, "MB/s", median(kubectl), Target("≥", 1.5, "ratio"))


def far(stage: Stage) -> Iterator[Row]:
    """The same flow with and without a longer round trip, both through the delay proxy."""
    stage.connect(far=True)

    def at(round_trip: int, direction: str, _round: int) -> float:
        stage.proxy.set(round_trip)
        return through_vif(stage, direction)

    try:
        for direction in ("download", "upload"):
            delayed, straight = interleaved(ROUNDS, partial(at, ROUND_TRIP, direction), partial(at, 0, direction))
            name = f"{direction}-{ROUND_TRIP}ms"
            yield Row(name, median(delayed), "MB/s", median(straight), Target("≥", 0.9, "ratio"))
    finally:
        stage.proxy.set(0)


def small(stage: Stage) -> Iterator[Row]:
    """A small GET on a connection of its own."""
    stage.connect()
    with port_forward(stage, SERVER, SMALL_PORT) as port:

        def get(inside: bool, host: str, number: int, _round: int) -> float:
            return median(stage.measure(stage.client(inside), "client", "get", host, number, GETS)) * 1000

        ours, kubectl = interleaved(
            ROUNDS, partial(get, True, stage.server, SMALL_PORT), partial(get, False, "127.0.0.1", port)
        )
    yield Row("get/kubectl", median(ours), "ms", median(kubectl), Target("≤", 0.7, "ratio"))
