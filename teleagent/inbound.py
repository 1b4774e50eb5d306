"""Inbound: the ports of a replaced container, given out to the session that listens on them."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Any

from teleagent.arrivals import Connection, Datagrams, Port
from telewire.session import Session
from telewire.stream import Stream

NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""How a kernel or a pod without IPv6 refuses a socket."""
BACKLOG = 1024
ADDRESSES = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One port of a ``listen`` message; ``probed``: the kubelet probes it by HTTP."""

    port: int
    protocol: str
    probed: bool

    @classmethod
    def of(cls, message: dict[str, Any]) -> Wanted:
        """Return what the message asks for. KeyError or ValueError if it is malformed."""
        port, protocol = int(message["port"]), str(message.get("protocol", "tcp")).lower()
        if not 0 < port < 65536 or protocol not in ("tcp", "udp"):
            raise ValueError(f"{port}/{protocol} is no port")
        return cls(port, protocol, bool(message.get("probes")))


class Listener(Port):
    """A port with its sockets, and whether it outlives its owner."""

    def __init__(self, port: int, protocol: str) -> None:
        super().__init__(port, protocol)
        self.held = False
        self.owner: Stream | None = None
        self._sockets: list[asyncio.Server | Datagrams] = []

    async def open(self) -> None:
        """Take the port on all addresses. OSError if it cannot be had, and then it is not had by halves."""
        loop = asyncio.get_running_loop()
        try:
            for family, address in ADDRESSES:
                try:
                    sock = self._bound(family, address)
                except OSError as error:
                    if family == socket.AF_INET6 and error.errno in NO_FAMILY:
                        continue
                    raise
                if self.protocol == "tcp":
                    self._sockets.append(await loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG))
                else:
                    self._sockets.append(Datagrams(self, sock))
        except OSError:
            self.close()
            raise

    def _bound(self, family: socket.AddressFamily, address: str) -> socket.socket:
        if self.protocol == "tcp":
            return socket.create_server((address, self.port), family=family, backlog=BACKLOG)
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:  # no SO_REUSEADDR: two UDP sockets that both have it may take the same port
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Give the port back; connections that came in before go on."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []


class Listeners:
    """All ports that are taken at the moment."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[int, str], Listener] = {}

    async def take(
        self, session: Session, owner: Stream, ports: list[dict[str, Any]], *, hold: bool
    ) -> list[dict[str, Any]]:
        """Take ``ports`` for ``owner``'s session; return those that could not be had: ``[{"port","protocol","text"}]``.

        ``hold``: they stay taken when the owner ends, probes are answered, other connections reset. A port that another session
        has is taken over if that session has no link.
        """
        failed = []
        for wanted in [Wanted.of(port) for port in ports]:
            try:
                listener = await self._listener(wanted, session)
            except OSError as error:
                failed.append({"port": wanted.port, "protocol": wanted.protocol, "text": error.strerror or str(error)})
                continue
            listener.session, listener.owner = session, owner
            listener.probed, listener.held = wanted.probed, hold
        return failed

    async def _listener(self, wanted: Wanted, session: Session) -> Listener:
        key = (wanted.port, wanted.protocol)
        listener = self._listeners.get(key)
        if listener is None:
            listener = Listener(*key)
            await listener.open()
            self._listeners[key] = listener
        elif listener.session not in (None, session) and listener.session.connected:
            raise OSError(errno.EADDRINUSE, "another connected session has the port")
        return listener

    def give_back(self, owner: Stream) -> None:
        """``owner`` has ended: close its ports, or hold them without traffic."""
        for key, listener in list(self._listeners.items()):
            if listener.owner is owner:
                listener.owner = listener.session = None
                if not listener.held:
                    listener.close()
                    del self._listeners[key]

    def close(self) -> None:
        """Close everything."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
