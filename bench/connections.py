"""Many connections: one after the other quickly, and all at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench.manifests import SMALL_PORT
from bench.memory import Peak
from bench.stage import Stage
from bench.table import Row, Target

RATE, SECONDS = 500, 20
AT_ONCE, HELD = 5000, 2


def many(stage: Stage) -> Iterator[Row]:
    """500 new connections a second for 20 s, then 5,000 open at once; each is asked for an answer."""
    stage.connect()
    inside = stage.client(inside=True)
    with Peak() as peak:
        churn = stage.measure(inside, "client", "churn", stage.server, SMALL_PORT, RATE, SECONDS)
        yield Row(f"{RATE}-per-second", churn["failed"], "failed", None, Target("=", 0))
        hold = stage.measure(inside, "client", "hold", stage.server, SMALL_PORT, AT_ONCE, HELD)
        yield Row(f"{AT_ONCE}-at-once", hold["failed"], "failed", None, Target("=", 0))
    for found in (churn, hold):
        if found["errors"]:
            print(f"bench: {found['failed']} connections failed: {'; '.join(found['errors'])}", file=sys.stderr)
    yield Row("connections-memory", peak.megabytes, "MB", None, Target("<", 250))
    yield Row(f"{RATE}-per-second-median", churn["median"] * 1000, "ms")
    yield Row(f"{RATE}-per-second-p99", churn["p99"] * 1000, "ms")
