"""Links in memory: two sessions joined without sockets, over links that break where a test wants it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from telewire.handshake import SessionServer, client_line, take_answer
from telewire.session import Session
from telewire.stream import Stream

TOKEN = "0123456789abcdef"


class MemoryLink:
    """One end of a link in memory; what is written here is taken at the other end in a later turn of the event loop."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.closed = False
        self.written = 0
        self.peer: MemoryLink
        self.take: Callable[[bytes], None] = lambda _data: None
        self.gone: Callable[[Exception | None], None] = lambda _error: None
        self._inbox: deque[bytes | None] = deque()

    def write(self, data: bytes) -> None:
        """Carry ``data`` to the other end."""
        if not self.closed:
            self.written += len(data)
            self.peer._put(data)

    def close(self) -> None:
        """Close after what was written."""
        if not self.closed:
            self.closed = True
            self.peer._put(None)

    def _put(self, data: bytes | None) -> None:
        self._inbox.append(data)
        asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        if not self._inbox or self.closed:
            return
        data = self._inbox.popleft()
        if data is None:
            self.closed = True
            self.gone(None)
            return
        while data and not self.closed:
            piece = self.wire.next_piece(data)
            data = data[len(piece) :]
            if piece:
                self.take(piece)
            if self.wire.spent:
                self.wire.cut()


class Wire:
    """Both ends of a link: cut after ``budget`` bytes, which both directions share; handed on in pieces of ``sizes``."""

    def __init__(self, budget: int | None = None, sizes: Iterable[int] = (1 << 20,)) -> None:
        self.a, self.b = MemoryLink(self), MemoryLink(self)
        self.a.peer, self.b.peer = self.b, self.a
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._budget = budget
        self._sizes = itertools.cycle(sizes)

    @property
    def spent(self) -> bool:
        """Whether no byte more gets through."""
        return self._budget == 0

    def next_piece(self, data: bytes) -> bytes:
        """Return what of ``data`` gets through next."""
        size = next(self._sizes)
        if self._budget is not None:
            size = min(size, self._budget)
        piece = data[:size]
        if self._budget is not None:
            self._budget -= len(piece)
        return piece

    def cut(self) -> None:
        """Break the link; what is under way is lost."""
        if self.broken.done():
            return
        self.broken.set_result(None)
        for end in (self.a, self.b):
            if not end.closed:
                end.closed = True
                end.gone(ConnectionResetError("the link was cut"))


def join(a: Session, b: Session, wire: Wire | None = None) -> Wire:
    """Attach two sessions to the ends of one link, as a handshake would."""
    wire = wire or Wire()
    received = a.resume.received, b.resume.received
    for session, end, peer_received in ((a, wire.a, received[1]), (b, wire.b, received[0])):
        end.take = lambda data, session=session, end=end: session.link_data(end, data)  # type: ignore[misc]
        end.gone = lambda error, session=session, end=end: session.link_lost(end, error)  # type: ignore[misc]
        session.attach(end, peer_received)
    return wire


def dial(session: Session, server: SessionServer, wire: Wire, token: str = TOKEN) -> asyncio.Future[None]:
    """Shake hands with ``server`` over ``wire`` and attach ``session``; the future tells how that went, if the link lives so long."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lines = {wire.a: b"", wire.b: b""}
    served: list[Session] = []

    def at_server(data: bytes) -> None:
        if served:
            served[0].link_data(wire.b, data)  # type: ignore[arg-type]
            return
        lines[wire.b] += data
        line, feed, rest = lines[wire.b].partition(b"\n")
        if feed and (found := server.accept(wire.b, line)) is not None:  # type: ignore[arg-type]
            served.append(found)
            wire.b.gone = lambda error: found.link_lost(wire.b, error)
            if rest:
                found.link_data(wire.b, rest)

    def at_client(data: bytes) -> None:
        if ready.done():
            session.link_data(wire.a, data)
            return
        lines[wire.a] += data
        line, feed, rest = lines[wire.a].partition(b"\n")
        if not feed:
            return
        try:
            session.attach(wire.a, take_answer(session, line))
        except Exception as error:
            ready.set_exception(error)
            wire.a.close()
            return
        ready.set_result(None)
        wire.a.gone = lambda error: session.link_lost(wire.a, error)
        if rest:
            session.link_data(wire.a, rest)

    wire.a.take, wire.b.take = at_client, at_server
    wire.a.write(client_line(session, token))
    return ready


class Pair:
    """Two sessions; the streams that one opens queue at the other."""

    def __init__(self) -> None:
        self.at_client: asyncio.Queue[Stream] = asyncio.Queue()
        self.at_server: asyncio.Queue[Stream] = asyncio.Queue()
        self.client = Session(client=True, on_stream=self.at_client.put_nowait)
        self.server = Session(client=False, session_id=self.client.id, on_stream=self.at_server.put_nowait)
        self.wire = Wire()

    def link(self, wire: Wire | None = None) -> None:
        """Join them by a new link."""
        self.wire = join(self.client, self.server, wire)

    async def streams(self) -> tuple[Stream, Stream]:
        """Return both ends of a new stream that the client has opened."""
        near = self.client.open_stream()
        return near, await self.at_server.get()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two sessions that are joined by a link."""
    made = Pair()
    made.link()
    yield made
    made.client.close()
    made.server.close()
    await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let the event loop turn, so that what is on its way arrives."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true; TimeoutError if it does not become so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


async def read_all(stream: Stream) -> bytes:
    """Return what comes until the peer's end."""
    parts = []
    while part := await stream.read():
        parts.append(part)
    return b"".join(parts)
