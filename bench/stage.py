"""What every measurement stands on: two ways to one API server, a namespace, a connection, containers; all removed at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bench import commands, delay, manifests
from bench.commands import ROOT, TELEPRESENCE, BenchError
from devcluster.binaries import BUILD
from orchestrator import apiserver, daemon, kubeconfig
from orchestrator.control import Control
from orchestrator.engine import Engine
from telewire import names

NAMESPACE, CONNECTION = "telepresence-bench", "bench"
LABEL = "telepresence.io/bench"
HANDLER_IMAGE = "frontend-v2"
READY = 120.0


class Stage:
    """Made as far as a measurement asks for it, removed on leaving the ``with``.

    The API server is reached by ``near``, the way that the daemon has to it, or by ``far``, through the delay proxy. Our own
    daemon and the peers take the same one.
    """

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._connected: bool | None = None
        self._clients: dict[bool, str] = {}
        self.engine = Engine()
        self.kubectl_program = commands.kubectl()

    def __enter__(self) -> Stage:
        self.folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="telepresence-bench-")))
        self._remove()
        return self

    def __exit__(self, *_: object) -> None:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._remove()
            self._undo.close()  # the delay proxy only now: the daemon needs it to clean up
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _remove(self) -> None:
        """Remove all that a run makes, or one that was killed has left: connection, containers, namespace."""
        for what in (self.disconnect, self._remove_containers, self._remove_namespace):
            try:
                what()
            except BenchError as error:
                print(f"bench: left behind: {error}", file=sys.stderr)

    def _remove_containers(self) -> None:
        found = commands.run(["docker", "ps", "-aq", "--filter", f"label={LABEL}"]).split()
        if found:
            commands.run(["docker", "rm", "-f", *found])

    def _remove_namespace(self) -> None:
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=90s")

    # The ways to the API server.

    @cached_property
    def _context(self) -> kubeconfig.KubeContext:
        explicit = None if os.environ.get("KUBECONFIG") else str(BUILD / "dev" / "kubeconfig")
        found = kubeconfig.load(explicit, None, NAMESPACE)
        route = apiserver.find(found.cluster, self.engine.all_containers(), self.engine.all_networks())
        if not route.host_gateway:
            found.cluster = route.cluster
        return found

    @cached_property
    def near_document(self) -> dict[str, Any]:
        """The kubeconfig of the straight way."""
        return dict(self._context.document(self._context.credentials(interactive=True)))

    @cached_property
    def far_document(self) -> dict[str, Any]:
        """The kubeconfig of the way through the delay proxy."""
        found: dict[str, Any] = json.loads(json.dumps(self.near_document))
        cluster = found["clusters"][0]["cluster"]
        url = urlsplit(cluster["server"])
        cluster.setdefault("tls-server-name", url.hostname)
        cluster["server"] = urlunsplit(url._replace(netloc=f"{self._gateway}:{self.proxy.port}"))
        return found

    @cached_property
    def near(self) -> Path:
        """The file of :attr:`near_document`."""
        return self._write("near", self.near_document)

    @cached_property
    def far(self) -> Path:
        """The file of :attr:`far_document`."""
        return self._write("far", self.far_document)

    def _write(self, name: str, document: dict[str, Any]) -> Path:
        path = self.folder / name
        path.touch(0o600)
        path.write_text(json.dumps(document))  # JSON is YAML
        return path

    @cached_property
    def _gateway(self) -> str:
        """The engine's host as containers on its default bridge see it."""
        option = '{{index .Options "com.docker.network.bridge.name"}}'
        bridge = commands.run(["docker", "network", "inspect", "bridge", "-f", option]).strip()
        found = json.loads(commands.run(["ip", "-j", "-4", "address", "show", "dev", bridge or "docker0"]))
        return str(found[0]["addr_info"][0]["local"])

    @cached_property
    def proxy(self) -> delay.DelayProxy:
        """The delay proxy; no delay until it is told one."""
        url = urlsplit(self.near_document["clusters"][0]["cluster"]["server"])
        target = f"{url.hostname}:{url.port or 443}"
        return self._undo.enter_context(delay.running(self._gateway, target))

    # The cluster.

    def kubectl_command(self, *arguments: str, far: bool = False) -> list[str]:
        """Return the arguments of a ``kubectl`` here on this machine; its program is :attr:`kubectl_program`."""
        config = self.far if far else self.near
        return ["kubectl", f"--kubeconfig={config}", *arguments]

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl; return what it says."""
        return commands.run(self.kubectl_command(*arguments), given, executable=self.kubectl_program)

    @cached_property
    def server(self) -> str:
        """The address of the pod that serves bytes; the first who asks has all of the namespace made."""
        self.kubectl("apply", "-f", "-", given=json.dumps(manifests.everything(NAMESPACE)))
        for pod in (manifests.SERVER, manifests.POLLER):
            self.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", f"--timeout={READY:.0f}s")
        self.kubectl("rollout", "status", f"deployment/{manifests.WEB}", f"--timeout={READY:.0f}s")
        return self.kubectl("get", "pod", manifests.SERVER, "-o", "jsonpath={.status.podIP}").strip()

    @cached_property
    def handler_image(self) -> str:
        """The image of the handlers, built."""
        commands.run(["docker", "build", "-q", "-t", HANDLER_IMAGE, str(ROOT / "images" / HANDLER_IMAGE)])
        return HANDLER_IMAGE

    # The connection.

    def telepresence_command(self, *arguments: str) -> list[str]:
        """Return a command line for our connection."""
        return [TELEPRESENCE, "--use", CONNECTION, *arguments]

    def connect_command(self, far: bool = False) -> list[str]:
        """Return the command line that connects."""
        config = self.far if far else self.near
        return [TELEPRESENCE, "connect", "--docker", "--name", CONNECTION, "-n", NAMESPACE, "--kubeconfig", str(config)]

    def connect(self, far: bool = False) -> None:
        """Have the connection, by the way that is asked for."""
        assert self.server
        if self._connected is not far:
            self.disconnect()
            self.reconnect(far)

    def reconnect(self, far: bool = False) -> float:
        """Connect, which is not there; return the seconds that it took."""
        begun = time.monotonic()
        commands.run(self.connect_command(far))
        self._connected = far
        return time.monotonic() - begun

    def disconnect(self) -> None:
        """End the connection, also one that an earlier run has left."""
        self._connected = None
        self._clients.pop(True, None)
        for kind in ("container", "network"):
            label = f"label={names.LABEL_CONNECTION}={CONNECTION}"
            if commands.run(["docker", kind, "ls", "-q", *(["-a"] if kind == "container" else []), "--filter", label]):
                commands.run([TELEPRESENCE, "quit", "--use", CONNECTION])
                return

    @property
    def control(self) -> Control:
        """The daemon's control API."""
        return daemon.control(self.engine.inspect(daemon.container_name(CONNECTION)), CONNECTION)

    # Containers.

    def client(self, inside: bool) -> str:
        """Return a container that runs: ``inside`` the connection's network, or in the network of the engine's host."""
        if inside not in self._clients:
            name = f"bench-{'inside' if inside else 'outside'}"
            flags = ["-d", "--rm", "--init", f"--name={name}", f"--label={LABEL}=1", "--entrypoint=sleep"]
            before = self.telepresence_command("docker-run") if inside else ["docker", "run", "--network=host"]
            commands.run([*before, *flags, names.image("daemon"), "infinity"])
            self._clients[inside] = name
        return self._clients[inside]

    def measure(self, container: str, program: str, *arguments: object, given: object = None) -> Any:
        """Run one of :mod:`bench.programs` in a container; return what it prints as JSON."""
        text = manifests.program(program)
        command = ["docker", "exec", "-i", container, "python3", "-c", text, *map(str, arguments)]
        return json.loads(commands.run(command, json.dumps(given)))

    def timed(self, container: str, shell: str) -> float:
        """Return the seconds that a shell command takes in a container, its start not counted."""
        return float(self.measure(container, "shell", shell))


def interleaved(rounds: int, *sides: Any) -> list[list[float]]:
    """Call each of ``sides`` with the round's number, in turn, ``rounds`` times; return the figures of each side.

    A machine that is slow for a while is so for all of them.
    """
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        for index in range(len(sides)):
            side = (index + number) % len(sides)
            found[side].append(sides[side](number))
    return found
