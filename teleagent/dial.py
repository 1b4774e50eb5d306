"""Outbound: TCP connections and UDP flows in the pod's own network, and whether an address is there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from teleagent.request import Request, kind_of
from telewire import relay
from telewire.messages import DatagramReader, Missing, Refused, TimedOut, Unreachable, pack_datagram
from telewire.stream import Stream

DIAL_TIMEOUT = 10.0
UDP_IDLE = 600.0
"""Seconds: the bound for a flow that the daemon forgets to close."""
UDP_BEHIND = 1 << 20
"""Bytes that wait for the session before datagrams are dropped."""

Address = tuple[socket.AddressFamily, tuple[str, int]]


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of ``host``, at least one; at once if it is one. socket.gaierror if it has none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return [(family, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(entry[0], (str(entry[4][0]), port)) for entry in found]


async def connect(host: str, port: int) -> socket.socket:
    """Return a connected TCP socket, to the first address of ``host`` that answers. OSError if none does."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, address in await resolve(host, port):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            failure = error
            continue
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise failure or OSError(errno.EADDRNOTAVAIL, "it has no address")


async def tcp(request: Request) -> None:
    """Connect to the message's ``host`` and ``port``, say how that went, and relay."""
    host, port = request.address()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            sock = await connect(host, port)
    except OSError as error:
        raise _explained(error, f"{host}:{port}") from None
    transport, waiting = await asyncio.get_running_loop().create_connection(relay.Waiting, sock=sock)
    if request.stream.is_closing() or waiting.lost:
        relay.reset(transport)
        raise ConnectionResetError("gone while it was connected")
    request.accept()
    relay.join(transport, request.stream)


def _explained(error: OSError, where: str) -> OSError | Refused | Unreachable | TimedOut | Missing:
    kind = kind_of(error)
    if kind == "timeout":
        return TimedOut(f"{where} did not answer within {DIAL_TIMEOUT:g} s")
    if kind == "refused":
        return Refused(f"{where} refuses connections")
    if kind == "not-found":
        return Missing(f"{where}: the pod's DNS knows no such name")
    if kind == "unreachable":
        return Unreachable(f"{where} cannot be reached from the pod: {error.strerror}")
    return error


class _Flow:
    """One UDP flow: a connected socket, whose datagrams and ICMP errors go to the stream."""

    def __init__(self, sock: socket.socket, stream: Stream) -> None:
        self._socket = sock
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self.active = self._loop.time()
        self._loop.add_reader(sock, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def send(self, datagram: bytes) -> None:
        self.active = self._loop.time()
        try:
            self._socket.send(datagram)
        except OSError as error:
            self._failed(error)

    def _readable(self) -> None:
        self.active = self._loop.time()
        try:
            datagram = self._socket.recv(65535)
        except OSError as error:
            self._failed(error)
            return
        if self._stream.get_write_buffer_size() < UDP_BEHIND:
            self._stream.write(pack_datagram(datagram))

    def _failed(self, error: OSError) -> None:
        if error.errno not in (
            errno.EAGAIN,
            errno.EINTR,
            errno.EMSGSIZE,
            errno.ENOBUFS,
        ):  # these lose one datagram only
            self._stream.abort()


async def udp(request: Request) -> None:
    """Relay datagrams to the message's ``host`` and ``port`` and back, until the stream ends or nothing moves for ten minutes."""
    host, port = request.address()
    loop, stream = asyncio.get_running_loop(), request.stream
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            family, address = (await resolve(host, port))[0]
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _explained(error, f"{host}:{port}") from None
    flow = _Flow(sock, stream)
    reader = DatagramReader()
    try:
        request.accept()
        while (left := flow.active + UDP_IDLE - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    data = await stream.read()
            except TimeoutError:
                continue
            if not data:
                break
            for datagram in reader.feed(data):
                if not stream.is_closing():
                    flow.send(datagram)
        stream.close()
    finally:
        flow.close()
