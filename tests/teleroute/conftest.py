"""An engine, a daemon and containers as network namespaces; the plugin is a real process between them, the test plays dockerd."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from teleroute.join import link_names

REPOSITORY = Path(__file__).parents[2]
ENGINE_ADDRESS, DAEMON_ADDRESS = "172.31.255.1", "172.31.255.2"
DAEMON = f"{DAEMON_ADDRESS}:4038"
TOKEN = "0123456789abcdef-token"
OPTIONS = {"daemon": DAEMON, "token": TOKEN}
GENERIC = "com.docker.network.generic"
ROUTES = ("10.96.0.0/12", "fd00:96::/112")
"""What the daemon says the cluster has."""


class Refused(Exception):
    """The driver's answer is an error; its text is what Docker shows."""


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true; AssertionError if it does not become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def ip(*arguments: str) -> str:
    """Run ip(8); return what it prints."""
    found = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"ip {' '.join(arguments)}: {found.stderr}"
    return found.stdout


class Namespace:
    """A network namespace of its own."""

    def __init__(self) -> None:
        self.name = f"trtest-{uuid.uuid4().hex[:8]}"
        ip("netns", "add", self.name)

    def ip(self, *arguments: str) -> str:
        """Run ip(8) in it."""
        return ip("-n", self.name, *arguments)

    def batch(self, *lines: str) -> None:
        """Run several commands of ip(8) in it, in order."""
        subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True
        )

    def links(self, prefix: str = "") -> set[str]:
        """Return the names of its links that begin so."""
        found = {line.split()[0].partition("@")[0] for line in self.ip("-br", "link").splitlines()}
        return {name for name in found if name.startswith(prefix)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return subprocess.run(["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, check=False)

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command in it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], cwd=REPOSITORY, text=True, **more)

    def close(self) -> None:
        """Remove it and its links, also those whose other end is elsewhere."""
        for link in self.links() - {"lo"}:
            subprocess.run(["ip", "-n", self.name, "link", "del", link], capture_output=True, check=False)
        ip("netns", "del", self.name)


class PluginConnection(http.client.HTTPConnection):
    """HTTP on the plugin's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("plugin.moby.localhost", timeout=40)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class World:
    """One engine with the plugin, one daemon, and a sandbox for each endpoint that has joined."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.state = folder / "state" / "teleroute.json"
        self.engine = Namespace()
        self.sandboxes: dict[str, Namespace] = {}
        self._plugin: subprocess.Popen[str] | None = None
        self._daemon: subprocess.Popen[str] | None = None

    # Processes.

    def start_daemon(self) -> None:
        """Start the daemon in a new namespace, as a new container has it."""
        self.daemon = Namespace()
        self.engine.batch(
            f"link add dk0 type veth peer name eth0 netns {self.daemon.name}",
            f"addr add {ENGINE_ADDRESS}/24 dev dk0",
            "link set dk0 up",
            "link set lo up",
        )
        self.daemon.batch(f"addr add {DAEMON_ADDRESS}/24 dev eth0", "link set eth0 up", "link set lo up")
        self._daemon = self.daemon.start(
            sys.executable, "-m", "tests.teleroute.standin", TOKEN, *ROUTES, stdout=subprocess.PIPE
        )
        assert self._daemon.stdout is not None
        ready, _, _ = select.select([self._daemon.stdout], [], [], 30)
        assert ready
        assert self._daemon.stdout.readline() == "ready\n"

    def kill_daemon(self) -> None:
        """Remove the daemon as ``docker rm -f`` does; its namespace and the links there go with it."""
        if self._daemon is not None:
            _end(self._daemon, signal.SIGKILL)
            self._daemon = None
            self.daemon.close()

    def pause_daemon(self, *, paused: bool) -> None:
        """Let the daemon not answer, or go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def start_plugin(self) -> None:
        """Start the plugin; return when it answers."""
        path = str(self._folder / "teleroute.sock")
        environment = {**os.environ, "TELEROUTE_SOCKET": path, "TELEROUTE_STATE": str(self.state)}
        self._plugin = self.engine.start(sys.executable, "-m", "teleroute", env=environment, stderr=subprocess.DEVNULL)
        until(self.listens)
        assert self.call("GetCapabilities") == {"Scope": "local", "ConnectivityScope": "local"}

    def listens(self) -> bool:
        """Return whether the plugin takes connections."""
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self._folder / "teleroute.sock")) == 0

    def end_plugin(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the plugin by a signal."""
        if self._plugin is not None:
            _end(self._plugin, how)
            self._plugin = None
            if how is signal.SIGKILL:
                os.unlink(self._folder / "teleroute.sock")

    def restart_plugin(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the plugin by a signal, and start it anew."""
        self.end_plugin(how)
        self.start_plugin()

    def close(self) -> None:
        """End everything."""
        self.end_plugin()
        self.kill_daemon()
        for endpoint in list(self.sandboxes):
            self.sandboxes.pop(endpoint).close()
        self.engine.close()

    # dockerd's part.

    def call(self, name: str, body: object = None) -> dict[str, Any]:
        """Call a method as dockerd does; Refused with the answer's text if it is an error."""
        connection = PluginConnection(str(self._folder / "teleroute.sock"))
        try:
            raw = b"" if body is None else json.dumps(body).encode()
            headers = {"Accept": "application/vnd.docker.plugins.v1.2+json"}
            connection.request("POST", f"/NetworkDriver.{name}", raw, headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200 or answer.get("Err"):
            raise Refused(answer["Err"])
        return answer

    def create_network(
        self, network: str, pool: str = "10.81.0.0/24", gateway: str = "10.81.0.1/24", **more: str
    ) -> None:
        """Create a network of one IPv4 pool."""
        data = [{"AddressSpace": "LocalDefault", "Pool": pool, "Gateway": gateway}]
        body = {"NetworkID": network, "Options": {GENERIC: {**OPTIONS, **more}}, "IPv4Data": data, "IPv6Data": []}
        assert self.call("CreateNetwork", body) == {}

    def create_endpoint(self, network: str, endpoint: str, address: str = "10.81.0.2/24") -> dict[str, Any]:
        """Create an endpoint with an IPv4 address."""
        interface = {"Address": address, "AddressIPv6": "", "MacAddress": ""}
        body = {"NetworkID": network, "EndpointID": endpoint, "Interface": interface, "Options": {}}
        return self.call("CreateEndpoint", body)

    def join(self, network: str, endpoint: str, *addresses: str) -> dict[str, Any]:
        """Join, and move the link into a container's namespace as dockerd does."""
        body = {"NetworkID": network, "EndpointID": endpoint, "SandboxKey": "/var/run/docker/netns/x", "Options": {}}
        answer = self.call("Join", body)
        link = answer["InterfaceName"]["SrcName"]
        assert link in self.engine.links("tr")
        sandbox = self.sandboxes.get(endpoint) or Namespace()
        self.sandboxes[endpoint] = sandbox
        self.engine.ip("link", "set", link, "netns", sandbox.name)
        gateways = {key: answer[key] for key in ("Gateway", "GatewayIPv6") if answer.get(key)}
        sandbox.batch(
            f"link set {link} name eth0",
            *(f"addr add {address} dev eth0 nodad" for address in addresses or ("10.81.0.2/24",)),
            "link set eth0 up",
            *(f"route add default via {gateway}" for gateway in gateways.values()),
            *(f"route add {route['Destination']} via {route['NextHop']}" for route in answer.get("StaticRoutes") or []),
        )
        return answer

    def leave(self, network: str, endpoint: str) -> None:
        """Leave, and move the link back into the engine's namespace as dockerd does."""
        assert self.call("Leave", {"NetworkID": network, "EndpointID": endpoint}) == {}
        self.give_back(endpoint)

    def give_back(self, endpoint: str) -> None:
        """Remove a container's namespace, the link back in the engine's, as dockerd does."""
        sandbox = self.sandboxes.pop(endpoint, None)
        if sandbox is not None:
            link = link_names(endpoint)[0]
            if "eth0" in sandbox.links():
                sandbox.batch(
                    "link set eth0 down", f"link set eth0 name {link}", f"link set {link} netns {self.engine.name}"
                )
            sandbox.close()

    def delete_endpoint(self, network: str, endpoint: str) -> None:
        """Delete an endpoint."""
        assert self.call("DeleteEndpoint", {"NetworkID": network, "EndpointID": endpoint}) == {}

    def reaches(self, endpoint: str, address: str) -> bool:
        """Return whether an address answers to the container of an endpoint."""
        return self.sandboxes[endpoint].run("ping", "-c1", "-i0.2", "-w5", address).returncode == 0

    def saved(self, what: str) -> set[str]:
        """Return the IDs of the ``networks`` or ``endpoints`` that are on the disk."""
        return set(json.loads(self.state.read_text())[what]) if self.state.exists() else set()


def _end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(signal.SIGCONT)
    process.send_signal(how)
    process.wait(20)
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The plugin between an engine and a daemon."""
    made = World(tmp_path)
    try:
        made.start_daemon()
        made.start_plugin()
        yield made
    finally:
        made.close()
