"""Network namespaces of a test's own, so that this machine's network stays as it is. They go with the test's process."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
ROOT = Path(__file__).parents[2]
_HOLD = "mount -t sysfs sysfs /sys && ip link set lo up && echo ready && exec cat"


def socket_in(pid: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket of the network namespace of the process ``pid``; it stays there, whoever uses it (setns(2))."""
    made: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            with open(f"/proc/{pid}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(family, kind))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=work)  # with its end, its namespace is left
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


class Namespace:
    """One network namespace, and a mount namespace whose ``/sys`` shows its links."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-ec", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._holder.pid
        self._started: list[subprocess.Popen[str]] = []
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def _command(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", *command]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        done = subprocess.run(self._command(command), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start Python in it; standard input and output are pipes. It is ended with the namespace."""
        made = subprocess.Popen(
            self._command((sys.executable, *arguments)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        self._started.append(made)
        return made

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a socket of it, which does not block."""
        made = socket_in(self.pid, family, kind)
        made.setblocking(False)
        return made

    def sysctl(self, **values: int) -> None:
        """Set sysctls below ``net``; ``__`` stands for a slash."""
        script = "".join(f"echo {value} > /proc/sys/net/{key.replace('__', '/')};" for key, value in values.items())
        self.run("sh", "-ec", script)

    def link(self, device: str, other: Namespace, others_device: str) -> None:
        """Lay a cable to another namespace."""
        there = ["type", "veth", "peer", "name", others_device, "netns", str(other.pid)]
        subprocess.run(["ip", "link", "add", "name", device, "netns", str(self.pid), *there], check=True, timeout=10)
        self.run("ip", "link", "set", device, "up")
        other.run("ip", "link", "set", others_device, "up")

    def address(self, device: str, *addresses: str) -> None:
        """Give a link addresses."""
        for address in addresses:
            more: tuple[Any, ...] = ("nodad",) if ":" in address else ()
            self.run("ip", "address", "add", address, "dev", device, *more)

    def close(self) -> None:
        """End what runs in it; the kernel takes it down then."""
        for process in self._started:
            process.terminate()
        for process in (*self._started, self._holder):
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait(20)
