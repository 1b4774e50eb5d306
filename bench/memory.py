"""Resident memory: of the daemon, of the gateway's agent, of the plugins."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bench import commands
from bench.commands import BenchError
from bench.flows import through_vif
from bench.stage import CONNECTION, NAMESPACE, Stage
from bench.table import Row, Target
from orchestrator import daemon
from telewire import names

DOWNLOADS = 5


def _resident(status: str) -> float:
    """Return the MB that a process' ``/proc/PID/status`` tells."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def of_daemon() -> float:
    """Return the daemon's memory in MB."""
    pid = commands.run(["docker", "inspect", "-f", "{{.State.Pid}}", daemon.container_name(CONNECTION)]).strip()
    return _resident(Path("/proc", pid, "status").read_text())


def of_gateway(stage: Stage) -> float:
    """Return the memory of the gateway pod's agent, its process 1, in MB."""
    gateway = stage.control.status()["gateway"]
    if gateway is None:
        raise BenchError("the connection has no gateway at the moment")
    pod = gateway["pod"]
    return _resident(stage.kubectl("exec", "-n", NAMESPACE, pod, "--", "cat", "/proc/1/status"))


def of_plugin(name: str) -> list[float]:
    """Return the memory of each process of a managed plugin in MB, its main process first."""
    identity = commands.run(["docker", "plugin", "inspect", "-f", "{{.Id}}", name]).strip()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and identity in (process / "cgroup").read_text():
                found.append((int(process.name), _resident((process / "status").read_text())))
        except OSError:  # it has ended meanwhile
            continue
    if not found:
        raise BenchError(f"the processes of the plugin {name} are not to be seen from here")
    return [size for _, size in sorted(found)]


class Peak:
    """The most memory that the daemon had while this is entered, looked at five times a second."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.megabytes = max(self.megabytes, of_daemon())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(10)


def after_downloads(stage: Stage) -> Iterator[Row]:
    """What a fresh connection holds after five downloads."""
    stage.disconnect()
    stage.connect()
    for _ in range(DOWNLOADS):
        through_vif(stage, "download")
    yield Row("memory-daemon", of_daemon(), "MB", None, Target("<", 100))
    yield Row("memory-agent", of_gateway(stage), "MB", None, Target("<", 45))
    for plugin in (names.TELEROUTE_PLUGIN, names.TELEMOUNT_PLUGIN):
        name = f"memory-{plugin.partition(':')[0]}"
        yield Row(name, max(of_plugin(plugin)), "MB", None, Target("<", 60))
