"""``--to-pod``: ports of the daemon that lead to ports of the engaged pod's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from telewire import relay
from telewire.errors import BadRequest, TeleError, Unavailable
from telewire.messages import DatagramReader, pack_datagram, request
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

UDP_IDLE = 60.0
MOST_FLOWS = 1024
_BEHIND = 1 << 20
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ToPod:
    """A port of the pod's loopback."""

    port: int
    protocol: str

    @classmethod
    def parse(cls, text: str) -> ToPod:
        """Return what ``PORT[/tcp|/udp]`` means. BadRequest if it is malformed."""
        number, _, protocol = text.partition("/")
        protocol = protocol.lower() or "tcp"
        if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in ("tcp", "udp"):
            raise BadRequest(f"--to-pod {text!r} is no port; write PORT, PORT/tcp or PORT/udp")
        return cls(int(number), protocol)


class Forwards:
    """All of one engagement. ``session`` gives the session of an agent in the pod."""

    def __init__(self, wanted: list[ToPod], session: Callable[[], Session]) -> None:
        self._wanted, self._session = wanted, session
        self._closers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.told: list[dict[str, Any]] = []

    async def open(self, address: str) -> None:
        """Listen on free ports of ``address``. Unavailable if that cannot be."""
        try:
            for one in self._wanted:
                port = await (self._open_udp if one.protocol == "udp" else self._open_tcp)(one, address)
                told = {"port": one.port, "protocol": one.protocol, "address": address, "forward": port}
                self.told.append(told)
        except OSError as error:
            raise Unavailable(f"the daemon cannot listen on {address} for --to-pod: {error.strerror}") from None

    def close(self) -> None:
        """Listen no more; connections that there are go on."""
        for close in self._closers:
            close()
        for task in list(self._tasks):
            task.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_tcp(self, wanted: ToPod, address: str) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self, wanted), address, 0, backlog=128)
        self._closers.append(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _open_udp(self, wanted: ToPod, address: str) -> int:
        flows = _Flows(self, wanted)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: flows, local_addr=(address, 0))
        self._closers.append(transport.close)
        return int(transport.get_extra_info("sockname")[1])

    def connected(self, transport: asyncio.Transport, wanted: ToPod, waiting: _Connection) -> None:
        """Relay a connection that has come."""

        async def work() -> None:
            try:
                message = {"op": "dial", "host": _LOOPBACK, "port": wanted.port}
                stream, _ = await request(self._session(), message, 20)
            except TeleError as error:
                log.info("to-pod %d: %s", wanted.port, error)
                relay.reset(transport)
                return
            if waiting.lost:
                stream.abort()
            else:
                relay.join(transport, stream)

        self._spawn(work())

    async def flow(self, wanted: ToPod) -> Stream:
        """Return a stream of datagrams to the pod's port."""
        stream, _ = await request(self._session(), {"op": "udp", "host": _LOOPBACK, "port": wanted.port}, 20)
        return stream

    def flowing(self, work: Any) -> None:
        """Run a flow's work until its end, or the engagement's."""
        self._spawn(work)


class _Connection(relay.Waiting):
    def __init__(self, forwards: Forwards, wanted: ToPod) -> None:
        super().__init__()
        self._forwards, self._wanted = forwards, wanted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the way to the pod."""
        super().connection_made(transport)
        assert self.transport is not None
        self._forwards.connected(self.transport, self._wanted, self)


class _Flows(asyncio.DatagramProtocol):
    """One UDP port: a stream for each client."""

    def __init__(self, forwards: Forwards, wanted: ToPod) -> None:
        self._forwards, self._wanted = forwards, wanted
        self._queues: dict[Any, asyncio.Queue[bytes]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket, for the answers."""
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Take a client's datagram; what cannot be kept is lost, as UDP has it."""
        queue = self._queues.get(address)
        if queue is None:
            if len(self._queues) >= MOST_FLOWS:
                return
            queue = self._queues[address] = asyncio.Queue(256)
            self._forwards.flowing(self._run(queue, address))
        with contextlib.suppress(asyncio.QueueFull):
            queue.put_nowait(data)

    async def _run(self, queue: asyncio.Queue[bytes], address: Any) -> None:
        stream: Stream | None = None
        back: asyncio.Task[None] | None = None
        try:
            stream = await self._forwards.flow(self._wanted)
            back = asyncio.get_running_loop().create_task(self._back(stream, address))
            while True:
                async with asyncio.timeout(UDP_IDLE):
                    data = await queue.get()
                if stream.is_closing():
                    return
                if stream.get_write_buffer_size() < _BEHIND:
                    stream.write(pack_datagram(data))
        except (TeleError, OSError, TimeoutError) as error:
            log.debug("to-pod %d/udp: %s", self._wanted.port, error)
        finally:
            self._queues.pop(address, None)
            if back is not None:
                back.cancel()
            if stream is not None:
                stream.close()

    async def _back(self, stream: Stream, address: Any) -> None:
        reader = DatagramReader()
        with contextlib.suppress(OSError, TeleError):
            while data := await stream.read():
                for datagram in reader.feed(data):
                    if self._transport is not None:
                        self._transport.sendto(datagram, address)
