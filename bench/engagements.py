"""From the command to the first request of another pod that is answered here."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Iterator

from bench import commands
from bench.commands import BenchError
from bench.manifests import POLLER, WEB, WEB_PORT, program
from bench.stage import NAMESPACE, Stage
from bench.table import Row, Target, median

ROUNDS = 3
PATH = "/env"
"""What the frontend answers without asking anybody else; not what the kubelet asks for."""
LIMIT = 60.0
SETTLED = 2.0
"""Seconds for which the original has to have answered before the next round."""


class Poller:
    """Asks the workload's Service from another pod each 10 ms; tells when another version answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._seen: queue.Queue[tuple[float, str]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.put((time.monotonic(), line.strip()))

    def wait(self, version: str, child: subprocess.Popen[str] | None = None) -> float:
        """Return when ``version`` answered first. BenchError if that takes too long, or ``child`` ends before."""
        deadline = time.monotonic() + LIMIT
        seen = "nothing"
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                when, seen = self._seen.get(timeout=0.2)
                if seen == version:
                    return when
            if child is not None and child.poll() is not None:
                assert child.stdout is not None
                raise BenchError(f"the engagement ended with {child.returncode}: {child.stdout.read().strip()}")
        raise BenchError(f"{version} did not answer within {LIMIT:g} s; last: {seen}")

    def settle(self, version: str) -> None:
        """Wait until ``version`` has answered, and nothing else, for a while."""
        seen = version
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            try:
                _, seen = self._seen.get(timeout=SETTLED)
            except queue.Empty:
                if seen == version:
                    return
        raise BenchError(f"{version} does not answer for good within {LIMIT:g} s; last: {seen}")


@contextlib.contextmanager
def _poller(stage: Stage) -> Iterator[Poller]:
    inside = ["/usr/bin/python3", "-c", program("poller"), WEB, str(WEB_PORT), PATH]
    command = stage.kubectl_command("exec", "-i", "-n", NAMESPACE, POLLER, "--", *inside)
    process = commands.start(command, executable=stage.kubectl_program, stdin=subprocess.PIPE)
    try:
        poller = Poller(process)
        poller.wait("v1")
        yield poller
    finally:
        process.terminate()
        process.wait(10)


def _first_answer(stage: Stage, kind: str, target: float) -> Iterator[Row]:
    stage.connect()
    image = stage.handler_image
    found = []
    with _poller(stage) as poller:
        for _ in range(ROUNDS):
            begun = time.monotonic()
            child = commands.start(stage.telepresence_command(kind, WEB, "--docker-run", "--", image))
            try:
                found.append(poller.wait("v2", child) - begun)
            finally:
                commands.stop(child)
            poller.wait("v1")
            poller.settle("v1")
    yield Row(kind, median(found), "s", None, Target("<", target))


def intercept(stage: Stage) -> Iterator[Row]:
    """``intercept``, whose pod runs on."""
    yield from _first_answer(stage, "intercept", 1.2)


def replace(stage: Stage) -> Iterator[Row]:
    """``replace``, whose container is restarted as the agent in the same pod."""
    yield from _first_answer(stage, "replace", 2.0)
