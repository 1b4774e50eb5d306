"""Redirected datagrams: each client's flow goes to the daemon (intercept), or to the application with a copy for the daemon (wiretap).

What cannot be kept or sent is lost, as UDP has it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

from teleagent import application, transparent
from teleagent.arrivals import AT_ONCE, MOST_PENDING, UDP_BEHIND, UDP_IDLE
from teleagent.intercepting import Claim
from teleagent.tapping import Budget, Copy
from telewire.messages import DatagramReader, pack_datagram
from telewire.stream import Stream

log = logging.getLogger(__name__)

MOST_FLOWS = 1024
"""Flows of one port: the one that was idle for longest gives way to a new one."""
SWEEP_EACH = 5.0

Key = tuple[Any, str]


class RedirectedDatagrams:
    """The sockets of one redirected UDP port, and the flows that come in by them. OSError, NotPermitted."""

    def __init__(self, claim: Claim, budget: Budget) -> None:
        self.claim = claim
        self.budget = budget
        self.sockets = transparent.pair(socket.SOCK_DGRAM)
        self._flows: dict[Key, Flow] = {}
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.call_later(SWEEP_EACH, self._swept)
        for sock in self.sockets:
            self._loop.add_reader(sock, self._readable, sock)

    def close(self) -> None:
        """End the flows."""
        self._sweep.cancel()
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._end(list(self._flows))

    def renew(self) -> None:
        """The daemon can be reached again: what went to the application is offered to it at the next datagram."""
        self._end([key for key, flow in self._flows.items() if flow.passed_on])

    def _end(self, keys: list[Key]) -> None:
        for key in keys:
            if (flow := self._flows.pop(key, None)) is not None:
                flow.end()

    def _swept(self) -> None:
        self._sweep = self._loop.call_later(SWEEP_EACH, self._swept)
        before = self._loop.time() - UDP_IDLE
        self._end([key for key, flow in self._flows.items() if flow.active < before])

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                datagram, client, (host, port) = transparent.receive(sock)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("udp port %d: %s", self.claim.port, error)
                continue
            if port != self.claim.port:  # sent to this socket itself
                continue
            key = (client, host)
            flow = self._flows.pop(key, None)
            if flow is None:
                if len(self._flows) >= MOST_FLOWS:
                    self._end([next(iter(self._flows))])
                flow = Flow(self, sock, client, host)
                if flow.ended:
                    continue
            self._flows[key] = flow  # the last is the one that was active last
            flow.take(datagram)

    def forget(self, key: Key, flow: Flow) -> None:
        """Drop a flow that has ended."""
        if self._flows.get(key) is flow:
            del self._flows[key]


class Flow(asyncio.Protocol):
    """The datagrams of one client to one address of the pod; the protocol of the stream, if there is one."""

    def __init__(self, owner: RedirectedDatagrams, sock: socket.socket, client: Any, host: str) -> None:
        self._owner = owner
        self._claim = owner.claim
        self._socket = sock
        self._client = client
        self._host = host
        self._loop = asyncio.get_running_loop()
        self.active = self._loop.time()
        self.passed_on = False
        self._pending: list[bytes] = []
        self._stream: Stream | None = None
        self._reader = DatagramReader()
        self._application: socket.socket | None = None
        self._hosts = application.hosts(host)[1]
        self._last = b""
        self._copy: Copy | None = None
        self.ended = False
        if self._claim.tally is not None:
            self._copy = self._claim.copy(client[0], owner.budget)
            self._connect()
        else:
            self._claim.spawn(self._offer())

    def take(self, datagram: bytes) -> None:
        """Pass on a datagram of the client."""
        self.active = self._loop.time()
        if self._application is not None:
            self._send(datagram)
            if self._copy is not None:
                self._copy.feed(pack_datagram(datagram))
        elif self._stream is not None:
            if self._stream.get_write_buffer_size() < UDP_BEHIND:
                self._stream.write(pack_datagram(datagram))
        elif len(self._pending) < MOST_PENDING:
            self._pending.append(datagram)

    def end(self) -> None:
        """Pass on nothing more."""
        if self.ended:
            return
        self.ended = True
        self._owner.forget((self._client, self._host), self)
        self._disconnect()
        if self._stream is not None:
            self._stream.close()
        if self._copy is not None:
            self._copy.end()

    async def _offer(self) -> None:
        stream = await self._claim.offered(self._client[0])
        if self.ended:
            if stream is not None:
                stream.abort()
            return
        pending, self._pending = self._pending, []
        if stream is None:
            self.passed_on = True
            self._connect()
        else:
            self._stream = stream
            stream.set_protocol(self)
        for datagram in pending:
            self.take(datagram)

    # The application.

    def _connect(self) -> None:
        """Connect with the application where it may listen next; without such a place the flow ends."""
        self._disconnect()
        while self._hosts and self._application is None:
            try:
                self._application = application.flow(self._claim.slot, self._hosts.pop(0), self._claim.port)
            except OSError as error:
                log.debug("udp port %d: %s", self._claim.port, error)
        if self._application is None:
            self.end()
        else:
            self._loop.add_reader(self._application, self._answered)

    def _disconnect(self) -> None:
        sock, self._application = self._application, None
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()

    def _send(self, datagram: bytes) -> None:
        assert self._application is not None
        self._last = datagram if self._hosts else b""
        try:
            self._application.send(datagram)
        except OSError as error:
            self._failed(error)

    def _answered(self) -> None:
        for _ in range(AT_ONCE):
            if self._application is None:
                return
            try:
                datagram = self._application.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            self._hosts.clear()
            self.active = self._loop.time()
            self._answer(datagram)

    def _failed(self, error: OSError) -> None:
        """An ICMP error: the application may listen on the pod's address only."""
        if error.errno == errno.ECONNREFUSED and self._hosts:
            last = self._last
            self._connect()
            if self._application is not None and last:
                self._send(last)

    def _answer(self, datagram: bytes) -> None:
        try:
            transparent.send(self._socket, datagram, self._client, self._host)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                log.debug("udp port %d: %s", self._claim.port, error)

    # The daemon's stream.

    def data_received(self, data: bytes) -> None:
        """Send the answers that came."""
        self.active = self._loop.time()
        for datagram in self._reader.feed(data):
            self._answer(datagram)

    def eof_received(self) -> bool:
        """The daemon ends the flow; the next datagram begins a new one."""
        self.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is gone; the next datagram begins a new flow."""
        self._stream = None
        self.end()
