"""The Python API: connect, look around, run containers in the cluster's network, engage workloads.

>>> from orchestrator import api
>>> connection = api.connect(namespace="default")
>>> connection.run(["--rm", "debian", "cat", "/etc/resolv.conf"])
>>> connection.quit()
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from orchestrator import cleanup, daemon, dockerflags, runner
from orchestrator.building import Build
from orchestrator.connecting import Established, Options, establish
from orchestrator.control import Control
from orchestrator.engaging import Engage, Tell, engage
from orchestrator.engine import Engine
from orchestrator.leaving import leave
from orchestrator.model import Engagement, Status, Workload
from orchestrator.mounting import Mounts
from orchestrator.progress import Reporter
from orchestrator.quitting import disconnect
from telewire import names
from telewire.errors import BadRequest, NotFound, Unavailable

__all__ = [
    "Build",
    "Connection",
    "Engage",
    "Engagement",
    "Established",
    "Mounts",
    "NotConnectedError",
    "Options",
    "Status",
    "Workload",
    "choose",
    "connect",
    "connect_with",
    "connections",
]

NOT_CONNECTED = "not connected; run `telepresence connect --docker` first"


class NotConnectedError(Unavailable):
    """There is no connection."""


class Connection:
    """One connection: a daemon's container and what belongs to it.

    :ivar engine: the Docker Engine that it runs on
    :ivar name: the connection's name, also of its Docker network
    """

    def __init__(self, engine: Engine, name: str, reporter: Reporter | None = None) -> None:
        self.engine, self.name = engine, name
        self.reporter = reporter or Reporter("quiet")

    def inspect(self) -> dict[str, Any]:
        """Return what the engine knows of the daemon's container.

        :raises NotFound: it is gone
        """
        return self.engine.inspect(daemon.container_name(self.name))

    @property
    def control(self) -> Control:
        """The daemon's control API.

        :raises Unavailable: the daemon does not run
        """
        try:
            return daemon.control(self.inspect(), self.name)
        except NotFound:
            raise Unavailable(
                f"the daemon of connection {self.name} is gone; `telepresence connect --docker` mends it, "
                "`telepresence quit` cleans up"
            ) from None

    def status(self) -> Status:
        """Return what the daemon says of itself."""
        return self.control.status()

    def workloads(self) -> list[Workload]:
        """Return the workloads of the connected namespace."""
        return self.control.workloads()

    def engagements(self) -> list[Engagement]:
        """Return what is engaged through this connection."""
        return self.control.engagements()

    def run(self, arguments: Sequence[str]) -> int:
        """Run a container in the cluster's network in the foreground, as ``docker run`` with these arguments.

        :return: the exit code that ``docker run`` would give
        """
        return self._run(dockerflags.parse(arguments))

    def curl(self, arguments: Sequence[str]) -> int:
        """Run curl in a container in the cluster's network; return curl's exit code."""
        image = names.image("daemon")
        flags = [("rm", "true"), ("interactive", "true"), ("cap-drop", "ALL"), ("entrypoint", "curl")]
        return self._run(dockerflags.DockerRun(flags, image, list(arguments)))

    def _run(self, run: dockerflags.DockerRun) -> int:
        status = self.ready()
        runner.check(self.engine, run, self.reporter, self.name)
        labels = daemon.labels(self.name, names.ROLE_TOOL)
        created = runner.create(self.engine, self.name, status, run, labels, reporter=self.reporter)
        if run.true("detach"):
            runner.start_detached(self.engine, created)
            print(created.id)
            return 0
        return runner.start_attached(self.engine, created)

    def replace(self, wanted: Engage) -> int:
        """Replace a workload's container by one here until that ends; return its exit code."""
        return self.engage(wanted, "replace")

    def intercept(self, wanted: Engage) -> int:
        """Have a container here answer a workload's traffic until it ends; return its exit code."""
        return self.engage(wanted, "intercept")

    def wiretap(self, wanted: Engage) -> int:
        """Copy a workload's traffic to a container here until that ends; return its exit code."""
        return self.engage(wanted, "wiretap")

    def ingest(self, wanted: Engage) -> int:
        """Run a container here with a workload's environment and volumes until it ends; return its exit code."""
        return self.engage(wanted, "ingest")

    def engage(self, wanted: Engage, kind: str | None = None, tell: Tell | None = None) -> int:
        """Engage a workload in the foreground, until the handler ends; return its exit code.

        :param kind: ``replace``, ``intercept``, ``wiretap`` or ``ingest``, default what ``wanted`` says
        :param tell: called with the engagement and the handler's environment before the handler starts
        """
        if kind is not None:
            wanted = dataclasses.replace(wanted, kind=kind)
        return engage(self.engine, self.control, self.ready(), wanted, self.reporter, tell)

    def leave(self, engagement: str, container: str | None = None) -> None:
        """End an engagement by its name or its workload's, stopping its handler.

        :param container: the remote container, if several engagements fit
        """
        leave(self.engine, self.control, self.name, engagement, self.reporter, container)

    def ready(self) -> Status:
        """Return the daemon's status.

        :raises Unavailable: it is not connected to the cluster
        """
        status = self.status()
        if status["state"] not in ("connected", "reconnecting"):
            why = f": {status['error']}" if status.get("error") else ""
            raise Unavailable(
                f"connection {self.name} is {status['state']}{why}; `telepresence connect --docker` mends it, "
                "`telepresence quit` cleans up"
            )
        return status

    def quit(self) -> list[str]:
        """End engagements and remove everything of the connection, on both sides, whatever is dead.

        :return: what could not be removed, and why; empty when nothing is left
        """
        return disconnect(self.engine, self.name, self.reporter)


def connect(
    name: str | None = None,
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: str | None = None,
    hostname: str | None = None,
    expose: Sequence[str] = (),
    engine: Engine | None = None,
    reporter: Reporter | None = None,
) -> Connection:
    """Connect to a cluster, or find that it is connected already; mend what is left of a dead connection.

    :param name: the connection's name, default ``<context>-<namespace>``
    :param namespace: the connected namespace, default the context's own
    :param context: default the kubeconfig's current one
    :param kubeconfig: a file, default what ``KUBECONFIG`` says
    :param hostname: of the daemon's container
    :param expose: ports of the daemon's container to publish, as ``docker run -p`` takes them
    :raises TeleError: one line on what is wrong; nothing is left half made
    """
    reporter = reporter or Reporter("quiet")
    options = Options(name, namespace, context, kubeconfig, hostname, tuple(expose))
    return connect_with(options, engine or Engine(), reporter)[0]


def connect_with(options: Options, engine: Engine, reporter: Reporter) -> tuple[Connection, Established]:
    """Connect; return the connection, and how it came to be."""
    established = establish(options, engine, reporter)
    return Connection(engine, established.name, reporter), established


def connections(engine: Engine | None = None, reporter: Reporter | None = None) -> list[Connection]:
    """Return all connections, also those of which only remains are there."""
    engine = engine or Engine()
    return [Connection(engine, name, reporter) for name in cleanup.known(engine)]


def choose(found: Sequence[Connection], use: str | None = None) -> Connection:
    """Return the one connection that is meant.

    :param use: a name, or a regular expression that matches exactly one name
    :raises NotConnectedError: there is none
    :raises BadRequest: more than one could be meant
    """
    if not found:
        raise NotConnectedError(NOT_CONNECTED)
    listed = ", ".join(connection.name for connection in found)
    if use is None:
        if len(found) > 1:
            raise BadRequest(f"there are several connections ({listed}); choose one with --use NAME")
        return found[0]
    exact = [connection for connection in found if connection.name == use]
    try:
        matching = exact or [connection for connection in found if re.search(use, connection.name)]
    except re.error as error:
        raise BadRequest(f"--use {use!r} is no regular expression: {error}") from None
    if len(matching) != 1:
        how_many = "no connection" if not matching else "more than one connection"
        raise BadRequest(f"--use {use!r} matches {how_many}; there are: {listed}")
    return matching[0]
