"""One engine in a container, as the tests use it: docker on it, a daemon with a network, containers that look around, what is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import engines

from orchestrator import apiserver, daemon
from orchestrator.engine import Engine
from telewire import names

DEBIAN = "debian:trixie-slim"
DRIVER = names.TELEROUTE_PLUGIN
"""The network driver's name needs its tag on every engine."""
SUBNET, GATEWAY = "10.98.0.0/24", "10.98.0.1"
SUBNET6, GATEWAY6 = "fd98::/64", "fd98::1"

PROBE = r"""
import socket, struct, sys
def ping(address):
    six = ":" in address
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 58 if six else 1)
    s.settimeout(1)
    body = struct.pack("!HH", 4711, 1) + b"probe---"
    words = [(128 if six else 8) << 8, *struct.unpack("!6H", body)]
    total = sum(words)
    total = (total & 0xffff) + (total >> 16)
    s.sendto(struct.pack("!BBH", 128 if six else 8, 0, ~total & 0xffff) + body, (address, 0))
    try:
        while True:
            got, (peer, *_) = s.recvfrom(2048)
            if peer == address and got.endswith(b"probe---") and got[0 if six else 20] == (129 if six else 0):
                return "pong"
    except OSError as error:
        return str(error)
def tcp(address, port):
    try:
        socket.create_connection((address, int(port)), 2).close()
        return "open"
    except OSError as error:
        return str(error)
if sys.argv[1] in ("ping", "both"):
    print(ping(sys.argv[2]))
if sys.argv[1] in ("tcp", "both"):
    print(tcp(*sys.argv[2:]))
"""
"""``ping ADDRESS``, ``tcp ADDRESS PORT`` or ``both ADDRESS PORT``; prints pong, open, or what was wrong."""

INSIDE = r"""
ip -j link
printf '\0'; grep ' - fuse.telemount ' /proc/self/mountinfo
printf '\0'; pgrep -fa '[t]elemount.child'
printf '\0'; cd /var/lib/docker/plugins && cat */propagated-mount/*.json */propagated-mount/state/*.json 2>/dev/null || :
"""
"""What the plugins have in an engine: links, mounts, processes, what they remember."""


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until ``condition()`` is true; AssertionError with its last value if it does not become so."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not so within {seconds:g} s; last: {found!r}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Attached:
    """A daemon's container and the Teleroute network that leads to it."""

    daemon: str
    network: str
    gateway: str = GATEWAY


class Inner(engines.Engine):
    """The engine."""

    def run(self, *arguments: str, check: bool = True, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run docker on it."""
        command = ["docker", "-H", self.host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, input=given, timeout=240)
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}{self.last_words()}"
        return done

    def docker(self, *arguments: str) -> str:
        """Run docker on it, which must succeed; return what it prints on stdout."""
        return self.run(*arguments).stdout.strip()

    def refused(self, *arguments: str) -> str:
        """Run docker on it, which must fail; return what it says."""
        done = self.run(*arguments, check=False)
        assert done.returncode, f"docker {' '.join(arguments)} succeeded"
        return done.stderr.strip()

    def last_words(self) -> str:
        """Return the end of dockerd's log."""
        return "\n" + "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-12:])

    def load(self, *images: str) -> None:
        """Bring images of the machine's own engine into it."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "-H", self.host, "load", "-q"], stdin=save.stdout, check=True, capture_output=True
            )
        assert save.returncode == 0

    def links(self, prefix: str = "tr") -> list[str]:
        """Return the links in its network namespace whose names begin so."""
        found = json.loads(self.inside("ip", "-j", "link"))
        return sorted(link["ifname"] for link in found if link["ifname"].startswith(prefix))

    def held(self) -> dict[str, object]:
        """Return everything that a test may leave in it."""
        links, mounts, processes, remembered = self.inside("sh", "-c", INSIDE).split("\0")
        state: dict[str, object] = {}
        decoder, text = json.JSONDecoder(), remembered.strip()
        while text:
            one, end = decoder.raw_decode(text)
            state.update(one)
            text = text[end:].strip()
        return {
            "containers": self.docker("ps", "-aq").split(),
            "networks": self.docker("network", "ls", "-q", "--filter", "type=custom").split(),
            "volumes": self.docker("volume", "ls", "-q").split(),
            "links": sorted(link["ifname"] for link in json.loads(links) if link["ifname"].startswith("t")),
            "mounts": mounts.split("\n"),
            "processes": processes.split("\n"),
            "remembered": {key: value for key, value in state.items() if value},
        }

    # A connection without a cluster.

    def start_daemon(self, name: str = "test") -> str:
        """Start a daemon's container as the command does, but have it come back with its engine; return its name."""
        with mock.patch.dict(os.environ, DOCKER_HOST=self.host):
            container = daemon.start(Engine(), name, apiserver.Route({}), {})
        self.docker("update", "--restart", "always", container)
        self.wait_daemon(container)
        return daemon.container_name(name)

    def wait_daemon(self, container: str) -> None:
        """Wait until its control API listens."""
        address = self.address_of(container, "bridge")
        until(lambda: self.dial(address, names.CONTROL_PORT), "the daemon listens")

    def dial(self, address: str, port: int | str) -> bool:
        """Whether an address takes connections that come from the engine itself."""
        command = ["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port} && echo open"]
        return bool(self.inside(*command, check=False))

    def token(self, container: str) -> str:
        """Return a daemon's token."""
        environment = json.loads(self.docker("inspect", "-f", "{{json .Config.Env}}", container))
        return next(entry.partition("=")[2] for entry in environment if entry.startswith("TELEPRESENCE_TOKEN="))

    def create_network(self, name: str, container: str, *more: str) -> str:
        """Create the network of a daemon; return its name."""
        address = self.address_of(container, "bridge")
        options = ["-o", f"daemon={address}:{names.CONTROL_PORT}", "-o", f"token={self.token(container)}"]
        self.docker("network", "create", "-d", DRIVER, *options, "--subnet", SUBNET, "--gateway", GATEWAY, *more, name)
        return name

    def address_of(self, container: str, network: str) -> str:
        """Return a container's address on a network."""
        found = json.loads(self.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container))
        return str(found[network]["IPAddress"])

    # Containers.

    def start(
        self, name: str, *options: str, command: tuple[str, ...] = ("-m", "http.server", "8080", "-d", "/srv")
    ) -> str:
        """Start a container with Python in it, by default with an HTTP server on port 8080; return its name."""
        self.docker(
            "run", "-d", "--init", "--name", name, "--entrypoint", "python3", *options, names.image("agent"), *command
        )
        return name

    def probe(self, container: str, *arguments: str) -> str:
        """Ask :data:`PROBE` in a running container."""
        return self.run("exec", container, "python3", "-c", PROBE, *arguments, check=False).stdout.strip()

    def reaches(self, container: str, attached: Attached) -> bool:
        """Whether a container reaches the daemon by ping and by TCP."""
        return self.probe(container, "both", attached.gateway, "53").split() == ["pong", "open"]

    def reads(self, container: str, path: str) -> str:
        """Return a file's content in a running container; nothing if it cannot be read."""
        return self.run("exec", container, "cat", path, check=False).stdout.strip()

    def assert_whole(self, container: str, attached: Attached) -> None:
        """Assert that a container's network, and the volume ``data`` with the file ``f``, work; for new containers too."""
        until(lambda: self.reaches(container, attached), f"{container} reaches the daemon")
        until(lambda: self.reads(container, "/mnt/f") == "content", f"{container} reads the volume")
        self.docker("exec", container, "sh", "-c", "echo $$ >/mnt/written")
        script = f"exec 3<>/dev/tcp/{attached.gateway}/53 && cat /mnt/f"
        with_both = ["-v", "data:/mnt:nocopy", "--network", attached.network]
        assert self.docker("run", "--rm", *with_both, DEBIAN, "bash", "-c", script) == "content"
