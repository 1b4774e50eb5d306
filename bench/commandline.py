"""How long a command takes: ``connect``, ``status``, ``--help``, and ``docker run`` on the connection's network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bench import commands
from bench.commands import TELEPRESENCE
from bench.stage import CONNECTION, LABEL, Stage, interleaved
from bench.table import Row, Target, median
from telewire import names

CONNECTS = 3
ROUNDS = 9


def _seconds(command: list[str], _round: int = 0) -> float:
    begun = time.perf_counter()
    commands.run(command)
    return time.perf_counter() - begun


def connect(stage: Stage) -> Iterator[Row]:
    """``connect --docker``, the images being there."""
    assert stage.server
    found = []
    for _ in range(CONNECTS):
        stage.disconnect()
        found.append(stage.reconnect())
    yield Row("connect", median(found), "s", None, Target("<", 2))


def quick(stage: Stage) -> Iterator[Row]:
    """What people wait for without thinking of the network."""
    stage.connect()
    status, helped = interleaved(
        ROUNDS, partial(_seconds, stage.telepresence_command("status")), partial(_seconds, [TELEPRESENCE, "--help"])
    )
    yield Row("status", median(status), "s", None, Target("<", 0.3))
    yield Row("help", median(helped), "s", None, Target("<", 0.15))


def docker_run(stage: Stage) -> Iterator[Row]:
    """A container that ends at once, on the connection's network and on the engine's default bridge."""
    stage.connect()

    def run(network: str, _round: int) -> float:
        flags = ["--rm", f"--label={LABEL}=1", f"--network={network}", "--entrypoint=true"]
        return _seconds(["docker", "run", *flags, names.image("daemon")]) * 1000

    ours, bridge = interleaved(ROUNDS, partial(run, CONNECTION), partial(run, "bridge"))
    yield Row("docker-run/bridge", median(ours), "ms", median(bridge), Target("<", 80, "difference"))
