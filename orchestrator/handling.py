"""The handler of an engagement: its container, and what happens beside it while it runs."""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Mapping

from orchestrator import daemon, mounting, runner, topod
from orchestrator.control import Control
from orchestrator.dockerflags import DockerRun
from orchestrator.engine import Engine
from orchestrator.model import Engagement, Status
from orchestrator.mounting import Mounts
from orchestrator.progress import Reporter
from orchestrator.undo import Undo
from telewire import names
from telewire.errors import BadRequest, NotFound, TeleError

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def container_name(engagement: str, port: int | None) -> str:
    """Return the name of a handler's container when the user gives none."""
    return f"intercept-{engagement}" + (f"-{port}" if port else "")


def variables(engagement: Engagement, mounts: Mounts) -> dict[str, str]:
    """Return the environment for the handler: the remote one, and what Telepresence adds if that does not have it."""
    added = {"TELEPRESENCE_CONTAINER": engagement["container"], **mounts.variables(engagement)}
    return {**added, **(engagement.get("environment") or {})}


def create(
    engine: Engine,
    connection: str,
    status: Status,
    run: DockerRun,
    engagement: Engagement,
    mounts: Mounts,
    environment: Mapping[str, str],
    reporter: Reporter,
    undo: Undo,
) -> runner.Created:
    """Create volumes and the handler's container; ``undo`` gets the steps back."""
    port = engagement["ports"][0]["local"] if engagement["ports"] else None
    name = run.value("name") or container_name(engagement["name"], port)
    extra = ["--rm"]
    if not run.value("name"):
        runner.check_name(engine, name)
        extra.append(f"--name={name}")
    extra += mounting.create(engine, connection, engagement, mounts, run, name, undo)
    run.flags = [(flag, value) for flag, value in run.flags if flag != "rm"]
    labels = daemon.labels(connection, names.ROLE_HANDLER, {names.LABEL_ENGAGEMENT: engagement["id"]})
    created = runner.create(engine, connection, status, run, labels, environment, extra, reporter)
    undo.add(f"container {name}", lambda: gone(engine, created.id))
    return created


def gone(engine: Engine, container: str) -> None:
    """Make sure that a handler which has ended is removed, so that its volumes can be."""
    if not engine.wait_gone(container, 3.0):
        engine.remove_container(container)


def check_address(address: str | None) -> None:
    """Check that ``--address`` is a host.

    :raises BadRequest: it is not
    """
    if address is None or _is_address(address):
        return
    if not _HOST.fullmatch(address):
        raise BadRequest(f"--address is a container's name, a name in the cluster or an IP address, not {address!r}")


def target(engine: Engine, connection: str, address: str | None) -> str | None:
    """Return where traffic goes if not to the handler itself, which is what a loopback address means.

    A container's name or alias on the connection's network becomes its address there; the daemon knows the rest.
    """
    if not address or address == "localhost":
        return None
    if _is_address(address):
        return None if ipaddress.ip_address(address).is_loopback else address
    for listed in engine.all_containers({"network": [connection]}):
        try:
            inspected = engine.inspect(listed["Id"])
        except NotFound:
            continue
        attached = inspected["NetworkSettings"]["Networks"].get(connection) or {}
        known = (inspected["Name"].removeprefix("/"), *(attached.get("Aliases") or ()))
        if address in known and attached.get("IPAddress"):
            return str(attached["IPAddress"])
    return address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Handler:
    """What happens beside the foreground: announcing the handler when it runs, stopping it when we are to end.

    :ivar address: where traffic goes if not to the handler
    :ivar message: what to print on stdout when the handler has started
    """

    def __init__(
        self,
        engine: Engine,
        control: Control,
        engagement: Engagement,
        container: str,
        connection: str,
        reporter: Reporter,
    ) -> None:
        self.engine, self.control, self.engagement = engine, control, engagement
        self.container, self.connection, self.reporter = container, connection, reporter
        self.address: str | None = None
        self.message: str | None = None
        self._lock = threading.Lock()
        self._closed = False

    def announce(self) -> None:
        """Tell the daemon of the handler as soon as it has an address; in a thread, the foreground goes on."""
        threading.Thread(target=self._told, args=(self._announce,), daemon=True).start()

    def stop(self) -> None:
        """Stop the container in order: one that ignores the signal it got is ended after its grace."""
        threading.Thread(target=self._told, args=(lambda: self.engine.stop(self.container),), daemon=True).start()

    def close(self) -> None:
        """Remove what runs beside the handler, and see that nothing is started any more."""
        with self._lock:
            self._closed = True
            if self.engagement.get("to_pod"):
                topod.remove(self.engine, self.connection, self.engagement)

    def _told(self, step: Callable[[], object]) -> None:
        try:
            step()
        except TeleError as error:
            self.reporter.note(f"telepresence: {error}")

    def _announce(self) -> None:
        while True:
            try:
                inspected = self.engine.inspect(self.container)
            except NotFound:
                return
            state = inspected["State"]
            attached = inspected["NetworkSettings"]["Networks"].get(self.connection) or {}
            if state["Running"] and attached.get("IPAddress"):
                break
            if state["Status"] in ("exited", "dead", "removing"):
                return
            time.sleep(0.03)
        goes_to = target(self.engine, self.connection, self.address)
        self.control.handler(self.engagement["id"], attached["IPAddress"], self.container, goes_to)
        with self._lock:
            if not self._closed and self.engagement.get("to_pod"):
                topod.start(self.engine, self.connection, self.engagement, self.container)
        if self.message is not None:
            print(self.message, flush=True)
