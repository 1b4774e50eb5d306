"""SFTP servers, a connection that can be cut, and mounted volumes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemount import mounts

OPENSSH = "/usr/lib/openssh/sftp-server"


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true; AssertionError if it does not become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class OpenSsh:
    """OpenSSH's sftp-server, one for each connection, as inetd would start it."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._running: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                self._running.append(subprocess.Popen([OPENSSH, *self._arguments], stdin=sock, stdout=sock))

    def close(self) -> None:
        """End the server and all its processes."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for process in self._running:
            process.kill()
            process.wait()


class Agent:
    """The agent's SFTP server as a process of its own."""

    def __init__(self, root: Path, *arguments: str, port: int = 0) -> None:
        self.port = port or free_port()
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "teleagent.sftp", "--listen", f"127.0.0.1:{self.port}", "--root", str(root), *arguments,
            ],
            cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def answers() -> bool:
            assert self._process.poll() is None
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        until(answers, 20)

    def pause(self, *, paused: bool) -> None:
        """Stop answering, or go on."""
        self._process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


class Proxy:
    """A TCP proxy in threads. ``cut`` breaks what goes through it; while ``down`` it refuses. ``after`` bytes of answers it cuts itself."""

    def __init__(self, target: int, *, delay: float = 0.0) -> None:
        self._target = target
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self.down = False
        self.after: dict[str, int] = {}
        """Bytes after which the connection is cut, by direction (``up`` to the server, ``down``)."""
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                near.close()
                continue
            self.accepted += 1
            far = socket.create_connection(("127.0.0.1", self._target))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((near, far))
            for direction, source, sink in (("up", near, far), ("down", far, near)):
                thread = threading.Thread(target=self._pump, args=(direction, source, sink), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _pump(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._delay:
                    time.sleep(self._delay)
                left = self.after.get(direction)
                if left is not None:
                    if len(data) >= left:
                        del self.after[direction]
                        sink.sendall(data[:left])
                        break
                    self.after[direction] = left - len(data)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection."""
        for pair in self._pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break every connection and take no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for pair in self._pairs:
            for sock in pair:
                sock.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is served."""
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def agent(root: Path) -> Iterator[Agent]:
    """The agent's server for ``root``."""
    made = Agent(root)
    yield made
    made.close()


@pytest.fixture
def proxy(agent: Agent) -> Iterator[Proxy]:
    """A connection to the agent's server that can be cut."""
    made = Proxy(agent.port)
    yield made
    made.close()


class Mount:
    """A mounted volume's process, started as the driver does it."""

    def __init__(self, target: Path, port: int, *, wait: bool = True, make: bool = True, **options: Any) -> None:
        self.path = target
        if make:
            target.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "telemount.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"options": {"host": "127.0.0.1", "port": port, **options}, "target": str(target), "wait": wait}
        with self.process.stdin as pipe:
            pipe.write(json.dumps(asked) + "\n")
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        self.answer = self.process.stdout.readline().strip() if ready else "nothing"

    def close(self) -> None:
        """Unmount and end."""
        mounts.detach(str(self.path))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts volumes; returns where."""
    made: list[Mount] = []

    def another(port: int, **options: Any) -> Path:
        made.append(Mount(tmp_path / f"mount{len(made)}", port, **options))
        assert made[-1].answer == "ready", made[-1].answer
        return made[-1].path

    yield another
    for one in made:
        one.close()
    assert not [path for path in mounts.mounted() if path.startswith(str(tmp_path))]


@pytest.fixture(params=["agent", "openssh"])
def served(request: pytest.FixtureRequest, root: Path) -> Iterator[tuple[int, str]]:
    """A server for ``root``, the agent's and then OpenSSH's: its port and the option ``dir``."""
    server: Agent | OpenSsh
    if request.param == "agent":
        server, directory = Agent(root), "/"
    else:
        assert os.path.exists(OPENSSH), "openssh-sftp-server is not installed; run tools/setup.sh test"
        server, directory = OpenSsh("-e"), str(root)
    yield server.port, directory
    server.close()
