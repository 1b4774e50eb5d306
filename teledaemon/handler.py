"""The handler here, and what comes to it from the engaged pods: connections, datagrams, copies."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from teledaemon.ports import Port
from telewire import relay
from telewire.errors import TeleError
from telewire.messages import DatagramReader, pack_datagram, read_message, refuse, send_message
from telewire.stream import Stream

log = logging.getLogger(__name__)

HANDLER_PATIENCE = 15.0
"""Seconds that inbound traffic waits for a handler, and for a new handler to listen."""
CONNECT_TIMEOUT = 10.0
UDP_IDLE = 60.0
_BEHIND = 1 << 20
"""Bytes of answers that wait for the tunnel before datagrams are dropped."""


class Handler:
    """Where an engagement's traffic goes. ``resolve`` turns a name that is no address into one."""

    def __init__(self, name: str, ports: list[Port], resolve: Callable[[str], Awaitable[str]]) -> None:
        self._name, self._ports, self._resolve = name, ports, resolve
        self.address = ""
        self.container = ""
        self.target = ""
        self._attached = asyncio.Event()
        self._answered = False
        self._deadline = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def attached(self) -> bool:
        """Whether there is a handler."""
        return bool(self.address)

    def attach(self, address: str, container: str, target: str) -> None:
        """Hand traffic to ``target``, by default the handler at ``address``, from now on."""
        self.address, self.container = str(ipaddress.ip_address(address)), container
        self.target = target or self.address
        self._answered = False
        self._deadline = asyncio.get_running_loop().time() + HANDLER_PATIENCE
        self._attached.set()

    def describe(self) -> dict[str, Any] | None:
        """Return what the control API tells of it."""
        if not self.address:
            return None
        return {"address": self.address, "container": self.container, "target": self.target}

    def close(self) -> None:
        """End what waits; connections that are joined end with their tunnel."""
        for task in list(self._tasks):
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until its end or :meth:`close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_stream(self, stream: Stream) -> None:
        """Take a stream that an agent has opened."""
        self.spawn(self._take(stream))

    async def _take(self, stream: Stream) -> None:
        try:
            message = await read_message(stream)
            operation = message.get("op")
            if operation not in ("inbound", "tap"):
                refuse(stream, "failed", f"unknown request {operation!r}; the peers' versions differ")
                return
            number, protocol = int(message["port"]), str(message["protocol"])
            port = next((p for p in self._ports if (p.remote, p.protocol) == (number, protocol)), None)
            if port is None:
                refuse(stream, "refused", f"port {number}/{protocol} is not engaged")
            elif protocol == "udp":
                await self._datagrams(stream, port, answers=operation == "inbound")
            elif operation == "tap":
                await self._copy(stream, port)
            else:
                await self._connection(stream, port)
        except (OSError, EOFError, TeleError) as error:
            log.info("engagement %s: %s", self._name, error)
            stream.abort()

    async def _address(self) -> str:
        async with asyncio.timeout(HANDLER_PATIENCE):
            while not self.target:
                self._attached.clear()
                await self._attached.wait()
        try:
            return str(ipaddress.ip_address(self.target))
        except ValueError:
            return await self._resolve(self.target)

    async def _dial(self, stream: Stream, port: Port) -> tuple[asyncio.Transport, relay.Waiting] | None:
        """Connect to the handler; None if it does not answer, which the agent has then been told."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                address = await self._address()
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    transport, waiting = await loop.create_connection(relay.Waiting, address, port.local)
                break
            except (OSError, TeleError) as error:
                young = not self._answered and loop.time() < self._deadline
                if isinstance(error, ConnectionRefusedError) and young and not stream.is_closing():
                    await asyncio.sleep(0.05)  # it has only just been started
                    continue
                refuse(stream, "refused", f"the handler does not answer on port {port.local}: {error or 'timeout'}")
                return None
        self._answered = True
        if stream.is_closing() or waiting.lost:
            relay.reset(transport)
            stream.abort()
            return None
        send_message(stream, {"ok": True})
        return transport, waiting

    async def _connection(self, stream: Stream, port: Port) -> None:
        if (dialled := await self._dial(stream, port)) is not None:
            relay.join(dialled[0], stream)

    async def _copy(self, stream: Stream, port: Port) -> None:
        """Write a copy to the handler; what it answers is read, lest it block, and dropped."""
        dialled = await self._dial(stream, port)
        if dialled is None:
            return
        transport = dialled[0]
        sink = _Sink()
        transport.set_protocol(sink)
        transport.resume_reading()
        try:
            while data := await stream.read():
                transport.write(data)
                await sink.drain()
            if transport.can_write_eof():
                transport.write_eof()
            stream.close()
            async with asyncio.timeout(UDP_IDLE):
                await sink.lost
        except (OSError, EOFError, TimeoutError):
            stream.abort()
        finally:
            transport.close()

    async def _datagrams(self, stream: Stream, port: Port, *, answers: bool) -> None:
        loop = asyncio.get_running_loop()
        flow = _Datagrams(stream if answers else None)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: flow, remote_addr=(await self._address(), port.local)
        )
        try:
            send_message(stream, {"ok": True})
            reader = DatagramReader()
            while (left := flow.active + UDP_IDLE - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        data = await stream.read()
                except TimeoutError:
                    continue
                if not data:
                    break
                flow.active = loop.time()
                for datagram in reader.feed(data):
                    transport.sendto(datagram)
            stream.close()
        finally:
            transport.close()


class _Sink(asyncio.Protocol):
    """The handler's end of a copy: its answers are dropped."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Drop an answer."""

    def eof_received(self) -> bool:
        """The handler has said all; it may still read."""
        return True

    def pause_writing(self) -> None:
        """The handler is slow."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The handler takes more."""
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """Remember it."""
        self._writable.set()
        if not self.lost.done():
            self.lost.set_result(None)

    async def drain(self) -> None:
        """Wait until the handler takes more. ConnectionResetError if it is gone."""
        await self._writable.wait()
        if self.lost.done():
            raise ConnectionResetError("the handler has closed the connection")


class _Datagrams(asyncio.DatagramProtocol):
    """The handler's answers on one UDP flow; without a stream they are dropped."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self.active = asyncio.get_running_loop().time()

    def datagram_received(self, data: bytes, _address: Any) -> None:
        """Send an answer back."""
        self.active = asyncio.get_running_loop().time()
        if self._stream is not None and self._stream.get_write_buffer_size() < _BEHIND:
            self._stream.write(pack_datagram(data))

    def error_received(self, _error: Exception) -> None:
        """Nobody listens (yet): as with UDP anywhere, the datagram is lost."""
