"""A daemon's container that is connected to no cluster, and networks and containers beside it, on the real engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import subprocess
import uuid
from pathlib import Path
from typing import Any

from telewire import names
from tests.teleroute.conftest import until

PREFIX = "trtest-"
IMAGE = names.image("daemon")
"""Also of the containers: it has Python."""
SYSCTLS = {
    "net.ipv4.ip_forward": 1, "net.ipv4.ip_unprivileged_port_start": 0, "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0, "net.ipv4.conf.all.accept_local": 1, "net.ipv4.conf.default.accept_local": 1,
    "net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0,
    "net.ipv6.conf.all.disable_ipv6": 0, "net.ipv6.conf.default.disable_ipv6": 0, "net.ipv6.conf.all.forwarding": 1,
}  # fmt: skip


def docker(*arguments: str, check: bool = True) -> str:
    """Run docker; return what it says, errors too."""
    found = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or found.returncode == 0, found.stderr
    return (found.stdout + found.stderr).strip()


def name() -> str:
    """Return a name that nobody else has."""
    return f"{PREFIX}{uuid.uuid4().hex[:8]}"


def links() -> set[str]:
    """Return the plugin's links in the engine's namespace."""
    found = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    return {link["ifname"] for link in found if link["ifname"].startswith("tr")}


def inside(container: str, *command: str) -> str:
    """Run a command of this machine in a container's network namespace."""
    process = docker("inspect", "-f", "{{.State.Pid}}", container)
    found = subprocess.run(["nsenter", "-t", process, "-n", *command], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else f"failed: {found.stdout}{found.stderr}"


def reaches(container: str, address: str) -> bool:
    """Return whether an address answers to a container."""
    return not inside(container, "ping", "-c1", "-i0.2", "-w5", address).startswith("failed")


def address_of(container: str, network: str, what: str = "IPAddress") -> str:
    """Return a container's address on a network."""
    return docker("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").{what}}}}}', container)


class Daemon:
    """A daemon's container, made by nothing but ``docker run``."""

    def __init__(self, network: str = "bridge", address: str = "") -> None:
        self.token = secrets.token_urlsafe(32)
        self._network = network
        given = ["--network", network, *([f"--ip={address}"] if address else [])]
        known = {key for key in SYSCTLS if Path("/proc/sys", key.replace(".", "/")).exists()}
        sysctls = [f"--sysctl={key}={value}" for key, value in SYSCTLS.items() if key in known]
        self.name = name()
        docker(
            "run", "-d", "--name", self.name, "--cap-drop=ALL", "--cap-add=NET_ADMIN", "--device=/dev/net/tun",
            "--security-opt=no-new-privileges", *sysctls, "-p", f"127.0.0.1::{names.CONTROL_PORT}",
            "-e", f"TELEPRESENCE_TOKEN={self.token}", *given, IMAGE,
        )  # fmt: skip
        try:
            until(lambda: self.status(), 30)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The address where the plugin reaches it."""
        return address_of(self.name, self._network)

    def status(self) -> dict[str, Any]:
        """Return what the control API tells, nothing while it does not answer."""
        port = docker("port", self.name, f"{names.CONTROL_PORT}/tcp", check=False).rpartition(":")[2]
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
            try:
                connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {self.token}"})
                found = json.load(connection.getresponse())
            finally:
                connection.close()
        return found

    def options(self, *more: str) -> list[str]:
        """Return what ``docker network create`` needs for it."""
        given = (f"daemon={self.address}:{names.CONTROL_PORT}", f"token={self.token}", *more)
        return ["-d", names.TELEROUTE_PLUGIN, *(part for option in given for part in ("-o", option))]

    def close(self) -> None:
        """Remove it."""
        docker("rm", "-f", self.name, check=False)


class Engine:
    """Makes networks and containers, and removes them."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._links = links()
        self.networks: list[str] = []
        self.containers: list[str] = []

    def network(self, *options: str, more: tuple[str, ...] = ()) -> tuple[str, str]:
        """Create a network; return its name and its gateway."""
        made = name()
        docker("network", "create", *self.daemon.options(*options), *more, made)
        self.networks.append(made)
        return made, docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", made)

    def start(self, *options: str, check: bool = True) -> str:
        """Start a container that serves HTTP on port 8000; return its name, or what is wrong."""
        made = name()
        self.containers.append(made)
        command = ("--entrypoint", "python3", IMAGE, "-u", "-m", "http.server", "8000")
        said = docker("run", "-d", "--name", made, *options, *command, check=check)
        return made if check else said

    def close(self) -> None:
        """Remove all of it."""
        for container in self.containers:
            docker("rm", "-f", container, check=False)
        for network in self.networks:
            docker("network", "rm", network, check=False)
        assert not set(docker("network", "ls", "--format", "{{.Name}}").split()) & set(self.networks)
        until(lambda: links() <= self._links)  # those of others are there for a moment


def plugin_process() -> int:
    """Return the number of the plugin's first process."""
    identifier = docker("plugin", "inspect", "-f", "{{.Id}}", names.TELEROUTE_PLUGIN)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if identifier in (entry / "cgroup").read_text() and b"teleroute\0" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return 0
