"""Lead ports of the loopback addresses elsewhere: ``python3 -I -m teledaemon.forward PORT/tcp=HOST:PORT …``.

Runs in the network namespace of a handler, where ``localhost:PORT`` is to be the pod's. It says ``ready`` when it listens, and
ends when the namespace has lost its interfaces, which is when the handler has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOPBACK = ("127.0.0.1", "::1")
UDP_IDLE = 60.0
"""Seconds without a datagram after which a flow is forgotten."""
_CHUNK = 65536
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class Forward:
    """One port, and where it leads."""

    port: int
    protocol: str
    host: str
    to: int


def parse(text: str) -> Forward:
    """Read ``PORT/PROTOCOL=HOST:PORT``. ValueError if it is something else."""
    listening, _, target = text.partition("=")
    port, _, protocol = listening.partition("/")
    host, _, to = target.rpartition(":")
    if protocol not in ("tcp", "udp") or not host:
        raise ValueError(f"{text!r} is not PORT/tcp=HOST:PORT")
    return Forward(int(port), protocol, host.strip("[]"), int(to))


async def serve(forwards: Sequence[Forward]) -> list[object]:
    """Listen on all ports; return what is to be kept. OSError if one is taken."""
    kept: list[object] = []
    for forward in forwards:
        for address in LOOPBACK:
            try:
                if forward.protocol == "tcp":
                    kept.append(await asyncio.start_server(_Tcp(forward), sock=_bound(forward, address)))
                else:
                    kept.append(_Udp(forward, address))
            except OSError as error:
                if address == "::1" and error.errno in _NO_IPV6:
                    continue
                raise OSError(error.errno, f"localhost:{forward.port}/{forward.protocol}: {error.strerror}") from None
    return kept


def _bound(forward: Forward, address: str) -> socket.socket:
    """Return a socket that has the port."""
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        made.setblocking(False)
        if forward.protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, forward.port))
    except OSError:
        made.close()
        raise
    return made


class _Tcp:
    """Join each connection with one to the target; half-closes and resets pass."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self.forward.host, self.forward.to)
        except OSError:
            _reset(writer)
            return
        for one in (writer, back):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            _reset(writer)
            _reset(back)
        finally:
            for one in (writer, back):
                one.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):  # it has closed both ways already
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, so that the other side does not take it for an end in order."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Udp:
    """Lead each sender's datagrams on from a port of its own, and answers back. On bare sockets, for asyncio drops empty ones."""

    def __init__(self, forward: Forward, address: str) -> None:
        self.target = socket.getaddrinfo(forward.host, forward.to, type=socket.SOCK_DGRAM)[0]
        self.flows: dict[object, socket.socket] = {}
        self.used: dict[object, float] = {}
        self.loop = asyncio.get_running_loop()
        self.socket = _bound(forward, address)
        self.loop.add_reader(self.socket, self._out)
        self.loop.call_later(UDP_IDLE, self._forget)

    def _out(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = self.socket.recvfrom(_CHUNK)
                with contextlib.suppress(OSError):  # nobody can be told
                    flow = self.flows.get(sender) or self._open(sender)
                    self.used[sender] = self.loop.time()
                    flow.send(data)

    def _open(self, sender: object) -> socket.socket:
        flow = socket.socket(self.target[0], socket.SOCK_DGRAM)
        try:
            flow.setblocking(False)
            flow.connect(self.target[4])
        except OSError:
            flow.close()
            raise
        self.flows[sender] = flow
        self.loop.add_reader(flow, self._back, flow, sender)
        return flow

    def _back(self, flow: socket.socket, sender: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = flow.recv(_CHUNK)
                self.used[sender] = self.loop.time()
                self.socket.sendto(data, sender)

    def _forget(self) -> None:
        """Close what has been idle for long."""
        now = self.loop.time()
        for sender in [sender for sender, used in self.used.items() if now - used > UDP_IDLE]:
            self.loop.remove_reader(self.flows[sender])
            self.flows.pop(sender).close()
            del self.used[sender]
        self.loop.call_later(UDP_IDLE / 4, self._forget)


def has_interfaces(table: str) -> bool:
    """Return whether the text of ``/proc/net/dev`` has an interface besides loopback."""
    names = [line.partition(":")[0].strip() for line in table.splitlines() if ":" in line]
    return any(name != "lo" for name in names)


async def _run(forwards: Sequence[Forward]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    _kept = await serve(forwards)
    print("ready", flush=True)  # noqa: T201 - whoever has started us waits for it
    table = Path("/proc/net/dev")
    had = has_interfaces(table.read_text())
    while not (had and not has_interfaces(table.read_text())):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await ended.wait()
                return


def main() -> None:
    """Run until told to end."""
    try:
        asyncio.run(_run([parse(text) for text in sys.argv[1:]]))
    except (OSError, ValueError) as error:
        sys.exit(str(getattr(error, "strerror", None) or error))


if __name__ == "__main__":
    main()
