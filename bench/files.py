"""The remote volumes: ``cat``, ``find`` and a long read in a container, beside ``sshfs``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from bench import commands
from bench.commands import BenchError
from bench.flows import ROUND_TRIP
from bench.manifests import SETS, TREES, WEB
from bench.memory import of_plugin
from bench.sshfs import mounted
from bench.stage import CONNECTION, LABEL, Stage, interleaved
from bench.table import Row, Target, median
from orchestrator import daemon
from telewire import names

OURS, PEER = "bench-files", "bench-sshfs"
SAMPLE = 10
"""Over a long round trip sshfs reads one file of so many, and its time counts so many times: it would take minutes."""


@contextlib.contextmanager
def _ours(stage: Stage) -> Iterator[None]:
    """Have a handler run that has the workload's volume at ``/data``."""
    handler = [
        f"--name={OURS}",
        f"--label={LABEL}=1",
        "--init",
        "--entrypoint=sleep",
        names.image("daemon"),
        "infinity",
    ]
    command = stage.telepresence_command("ingest", WEB, "--wait-message", "ready", "--docker-run", "--", *handler)
    child = commands.start(command)
    try:
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said = line.strip()
            if said == "ready":
                break
        else:
            raise BenchError(f"ingest ended: {said}")
        yield
    finally:
        commands.stop(child)


@contextlib.contextmanager
def _sshfs(stage: Stage) -> Iterator[None]:
    """Have a container run that has the same files by sshfs."""
    engagement = stage.control.engagements()[0]
    export, mount = engagement["export"], engagement["mounts"][0]
    if export is None:
        raise BenchError(f"the daemon exports no files of {WEB}")
    address = daemon.address(stage.engine.inspect(daemon.container_name(CONNECTION)))
    where = stage.folder / "sshfs"
    directory = mount.get("dir") or mount["path"]
    with mounted((address, export["port"]), stage.control.token, export["id"], directory, where):
        flags = [
            "-d",
            "--rm",
            "--init",
            f"--name={PEER}",
            f"--label={LABEL}=1",
            "--entrypoint=sleep",
            f"-v={where}:/data:ro",
        ]
        commands.run(["docker", "run", *flags, names.image("daemon"), "infinity"])
        try:
            yield
        finally:
            commands.run(["docker", "rm", "-f", PEER])


def _measure(stage: Stage, suffix: str, sample: int, quicker: float) -> Iterator[Row]:
    """Yield the three figures; ``quicker``: what ``cat`` is held to, as a ratio; ``sample``: of how many files sshfs reads one."""
    some = f"cat /data/cat-{{}}/{'*' if sample == 1 else '*0'}"

    def timed(container: str, shell: str, times: int, number: int) -> float:
        return stage.timed(container, f"{shell.format(number)} > /dev/null") * times

    for name, rounds, shell, peer_shell, times, ratio in (
        ("cat", SETS, "cat /data/cat-{}/*", some, sample, quicker),
        ("find", TREES, "find /data/find-{} -type f -size +0", "", 1, 1.0),
        ("read", SETS, "cat /data/big-{}", "", 1, 1.0),
    ):
        ours, sshfs = interleaved(
            rounds, partial(timed, OURS, shell, 1), partial(timed, PEER, peer_shell or shell, times)
        )
        yield Row(f"mount-{name}{suffix}/sshfs", median(ours), "s", median(sshfs), Target("≤", ratio, "ratio"))


def near(stage: Stage) -> Iterator[Row]:
    """By the straight way."""
    stage.connect()
    with _ours(stage), _sshfs(stage):
        yield from _measure(stage, "", 1, 1.0)
        yield Row("memory-volume", of_plugin(names.TELEMOUNT_PLUGIN)[-1], "MB", None, Target("<", 60))


def far(stage: Stage) -> Iterator[Row]:
    """With a longer round trip."""
    stage.connect(far=True)
    with _ours(stage), _sshfs(stage):
        stage.proxy.set(ROUND_TRIP)
        try:
            yield from _measure(stage, f"-{ROUND_TRIP}ms", SAMPLE, 0.2)
        finally:
            stage.proxy.set(0)
