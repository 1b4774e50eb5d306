"""What comes in on a taken port: handed to the daemon on a stream of its own, or answered as a probe."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from teleagent.probes import HEAD_LIMIT, PROBE_ANSWER, Verdict, judge
from telewire import relay
from telewire.errors import TeleError
from telewire.messages import AgentError, DatagramReader, error_for, pack_datagram, read_message, send_message
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 1.0
"""Seconds that a connection may take to show that it is a probe."""
ANSWER_TIMEOUT = 20.0
"""Seconds for the daemon to find a handler: it waits 15 for the first one."""
UDP_IDLE = 60.0
MOST_FLOWS = 4096
MOST_PENDING = 256
UDP_BEHIND = 1 << 20
"""Bytes that wait for the session before datagrams are dropped."""
AT_ONCE = 64


class Port:
    """One taken port, and whom its traffic goes to (``session`` None: nobody at the moment)."""

    def __init__(self, port: int, protocol: str) -> None:
        self.port = port
        self.protocol = protocol
        self.probed = False
        self.session: Session | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until its end or the agent's."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def offer(self, session: Session, peer: str) -> Stream:
        """Return a stream on which the daemon takes what ``peer`` has begun. An AgentError if it refuses."""
        stream = session.open_stream()
        try:
            send_message(stream, {"op": "inbound", "port": self.port, "protocol": self.protocol, "peer": peer})
            answer = await read_message(stream, ANSWER_TIMEOUT)
            if not answer.get("ok"):
                raise error_for(answer)
        except (EOFError, ConnectionError) as error:
            stream.abort()
            raise AgentError(f"the daemon went away: {error}") from None
        except BaseException:
            stream.abort()
            raise
        return stream


class Arriving(relay.Waiting):
    """A TCP connection that came in, until it is known where it goes. ``spawn`` runs :meth:`run`."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        super().__init__()
        self._spawn = spawn
        self._head = bytearray()
        self._more = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Find out where it goes, and hand it over."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to find out where it goes."""
        super().connection_made(transport)
        self._spawn(self.run())

    def data_received(self, data: bytes) -> None:
        """Keep the first bytes of a port with probes."""
        self._head += data
        if len(self._head) >= HEAD_LIMIT and self.transport:
            self.transport.pause_reading()
        self._more.set()

    def eof_received(self) -> bool:
        """Remember it: the other direction may go on."""
        self._ended = True
        self._more.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember it."""
        super().connection_lost(exc)
        self._more.set()

    async def is_probe(self) -> bool:
        """Return whether the first bytes, as far as they come soon, are the kubelet's."""
        transport = self.transport
        assert transport is not None
        transport.resume_reading()
        verdict = Verdict.UNDECIDED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAD_TIMEOUT):
                while (verdict := judge(self._head)) is Verdict.UNDECIDED and not (self._ended or self.lost):
                    self._more.clear()
                    await self._more.wait()
        if not self.lost:
            transport.pause_reading()
        return verdict is Verdict.PROBE

    def replay(self, other: asyncio.WriteTransport) -> None:
        """Write what has been read already to ``other``, and its end."""
        if self._head:
            other.write(bytes(self._head))
        if self._ended:
            other.write_eof()


class Connection(Arriving):
    """A TCP connection with a taken port: joined to a stream, answered as a probe, or reset."""

    def __init__(self, port: Port) -> None:
        super().__init__(port.spawn)
        self._port = port

    async def run(self) -> None:
        """Offer it to the daemon."""
        transport = self.transport
        assert transport is not None
        peer = transport.get_extra_info("peername")
        try:
            if self._port.probed and await self.is_probe():
                transport.write(PROBE_ANSWER)
                transport.close()
                return
            session = self._port.session
            if session is None or self.lost or peer is None:
                relay.reset(transport)
                return
            stream = await self._port.offer(session, peer[0])
            if self.lost or stream.is_closing():
                stream.abort()
                relay.reset(transport)
                return
            self.replay(stream)
            relay.join(transport, stream)
        except (TeleError, OSError) as error:
            log.info("connection on port %d not handed on: %s", self._port.port, error)
            relay.reset(transport)


class Datagrams:
    """One socket of a UDP port: a stream for each peer. What cannot be kept or sent is lost, as UDP has it."""

    def __init__(self, port: Port, sock: socket.socket) -> None:
        self.port = port
        self._socket = sock
        self._flows: dict[Any, _Flow] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def close(self) -> None:
        """Give the port back and end the flows."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for flow in list(self._flows.values()):
            flow.end()

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                datagram, address = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of an earlier answer
                log.debug("udp port %d: %s", self.port.port, error)
                continue
            flow = self._flows.get(address)
            if flow is None:
                if self.port.session is None or len(self._flows) >= MOST_FLOWS:
                    continue
                flow = self._flows[address] = _Flow(self, self.port.session, address)
                self.port.spawn(flow.run())
            flow.take(datagram)

    def forget(self, address: Any) -> None:
        """Drop a flow that has ended."""
        self._flows.pop(address, None)

    def send(self, datagram: bytes, address: Any) -> None:
        """Send an answer."""
        try:
            self._socket.sendto(datagram, address)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                log.debug("udp port %d: %s", self.port.port, error)


class _Flow:
    """The datagrams of one peer."""

    def __init__(self, socket_: Datagrams, session: Session, address: Any) -> None:
        self._socket = socket_
        self._session = session
        self._address = address
        self._pending: list[bytes] = []
        self._stream: Stream | None = None
        self._loop = asyncio.get_running_loop()
        self._active = self._loop.time()
        self._task: asyncio.Task[None] | None = None

    def take(self, datagram: bytes) -> None:
        self._active = self._loop.time()
        if self._stream is None:
            if len(self._pending) < MOST_PENDING:
                self._pending.append(datagram)
        elif self._stream.get_write_buffer_size() < UDP_BEHIND:
            self._stream.write(pack_datagram(datagram))

    def end(self) -> None:
        if self._stream is not None:
            self._stream.abort()
        elif self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            stream = self._stream = await self._socket.port.offer(self._session, self._address[0])
            for datagram in self._pending:
                stream.write(pack_datagram(datagram))
            self._pending.clear()
            reader = DatagramReader()
            while (left := self._active + UDP_IDLE - self._loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        data = await stream.read()
                except TimeoutError:
                    continue
                if not data:
                    break
                self._active = self._loop.time()
                for datagram in reader.feed(data):
                    self._socket.send(datagram, self._address)
        except (TeleError, OSError) as error:  # the next datagram begins a new flow
            log.info("flow on udp port %d ended: %s", self._socket.port.port, error)
        finally:
            self._socket.forget(self._address)
            if self._stream is not None:
                self._stream.close()
