"""One stream of a session, as an asyncio transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from telewire.session import Session

HIGH_WATER = 256 * 1024


class Stream(asyncio.Transport):
    """A byte stream in both directions, with half-close, reset and flow control per stream.

    It serves either a protocol (:meth:`set_protocol`: ``data_received``, ``eof_received``, ``connection_lost``, ``pause_writing``,
    ``resume_writing``; a reset comes as ConnectionResetError) or coroutines (:meth:`read`, :meth:`readexactly`, :meth:`drain`).
    The peer's window is given back only for what the protocol or the coroutine has taken.
    """

    def __init__(self, session: Session, stream_id: int) -> None:
        super().__init__()
        self.session = session
        self.id = stream_id
        self._protocol: asyncio.BaseProtocol | None = None
        self._received: deque[bytes] = deque()
        self._buffered = 0
        self._ended = False
        self._end_told = False
        self._paused = False
        self._lost: Exception | None = None
        self._is_lost = False
        self._closing = False
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._end_pending = False
        self._end_sent = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._writer_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._drainer: asyncio.Future[None] | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``default``; a stream has no socket."""
        return default

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, or keep it until the window and the link allow it."""
        if self._is_lost or self._end_pending or not data:
            return
        data = bytes(data)
        if not self._pending and not self.session.blocked:
            sent = self.session.mux.send(self.id, data)
            if sent:
                self.session.flush_soon()
            if sent == len(data):
                return
            data = data[sent:]
        self._pending.append(data)
        self._pending_size += len(data)
        self.session.waiting.add(self.id)
        if self._pending_size > self._high and not self._writer_paused:
            self._writer_paused = True
            if isinstance(self._protocol, asyncio.BaseProtocol):
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send the parts joined."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True: streams can be closed by halves."""
        return True

    def write_eof(self) -> None:
        """Send no more after what is pending."""
        if self._end_pending or self._is_lost:
            return
        self._end_pending = True
        if not self._pending:
            self._send_end()

    def _send_end(self) -> None:
        self._end_sent = True
        self.session.mux.end(self.id)
        self.session.flush_soon()
        self._maybe_done()

    def pump(self) -> bool:
        """Send what is pending as far as the window allows; return whether nothing waits any more. Called by the session."""
        mux = self.session.mux
        while self._pending:
            data = self._pending[0]
            sent = mux.send(self.id, data)
            self._pending_size -= sent
            if sent < len(data):
                if sent:
                    self._pending[0] = data[sent:]
                break
            self._pending.popleft()
            if self.session.blocked:
                break
        if self._pending_size <= self._low:
            if self._writer_paused:
                self._writer_paused = False
                if self._protocol is not None:
                    cast("asyncio.Protocol", self._protocol).resume_writing()
            if self._drainer and not self._drainer.done():
                self._drainer.set_result(None)
        if self._pending:
            return False
        if self._end_pending and not self._end_sent:
            self._send_end()
        return True

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._pending_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks in bytes, as ``asyncio.WriteTransport`` has them."""
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    async def drain(self) -> None:
        """Wait until little is pending. ConnectionResetError if the stream is lost meanwhile."""
        while self._pending_size > self._low and not self._is_lost:
            if self._drainer is None or self._drainer.done():
                self._drainer = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drainer)  # others may wait for the same one
        self._raise_if_lost()

    # Reading.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to ``protocol`` from now on, beginning with what is buffered."""
        self._protocol = protocol
        was_lost = self._is_lost
        if self._writer_paused:
            protocol.pause_writing()
        self._deliver()
        if was_lost:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, self._lost)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol; RuntimeError before there is one."""
        if self._protocol is None:
            raise RuntimeError("the stream has no protocol yet")
        return self._protocol

    def is_reading(self) -> bool:
        """Return whether received bytes are delivered."""
        return not self._paused

    def pause_reading(self) -> None:
        """Keep what comes, and with it the peer's window, until :meth:`resume_reading`."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver what was kept and go on."""
        if self._paused:
            self._paused = False
            if self._protocol is not None:
                self._deliver()

    async def read(self, limit: int = 65536) -> bytes:
        """Return up to ``limit`` bytes, at least one; empty at the peer's end. ConnectionResetError after a reset."""
        while not self._received:
            self._raise_if_lost()
            if self._ended:
                return b""
            await self._wait()
        data = self._received.popleft()
        if len(data) > limit:
            self._received.appendleft(data[limit:])
            data = data[:limit]
        self._take(len(data))
        return data

    async def readexactly(self, size: int) -> bytes:
        """Return exactly ``size`` bytes. IncompleteReadError at an early end, ConnectionResetError after a reset."""
        parts: list[bytes] = []
        missing = size
        while missing:
            part = await self.read(missing)
            if not part:
                raise asyncio.IncompleteReadError(b"".join(parts), size)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self, size: int) -> None:
        self._buffered -= size
        self.session.mux.consumed(self.id, size)
        self.session.flush_soon()

    def _deliver(self) -> None:
        protocol = cast("asyncio.Protocol", self._protocol)
        while self._received and not self._paused:
            data = self._received.popleft()
            self._take(len(data))  # first, for the protocol may close the stream
            protocol.data_received(data)
        if self._ended and not self._received and not self._end_told and not self._paused:
            self._end_told = True
            if not protocol.eof_received() and not self._end_pending:
                self.write_eof()
            self._maybe_done()

    # Called by the session.

    def data_received(self, data: memoryview) -> None:
        """Take bytes from the session; they are copied if they cannot be delivered at once."""
        if self._closing:
            self.session.mux.consumed(self.id, len(data))
            return
        if self._protocol is not None and not self._paused and not self._received:
            cast("asyncio.Protocol", self._protocol).data_received(bytes(data))
            self.session.mux.consumed(self.id, len(data))
            return
        self._received.append(bytes(data))
        self._buffered += len(data)
        self._wake()

    def end_received(self) -> None:
        """Take the peer's end from the session."""
        self._ended = True
        if self._protocol is not None:
            self._deliver()
        else:
            self._wake()
            self._maybe_done()

    def lost(self, error: Exception | None) -> None:
        """Take the loss of the stream from the session: a reset, or the session's end."""
        if self._is_lost:
            return
        self._is_lost, self._lost = True, error
        self._pending.clear()
        self._pending_size = 0
        self._wake()
        if self._drainer and not self._drainer.done():
            self._drainer.set_result(None)
        if self._protocol is not None:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)

    def _raise_if_lost(self) -> None:
        if self._is_lost:
            raise self._lost or ConnectionResetError("the stream was closed")

    def _maybe_done(self) -> None:
        if self._end_sent and self._ended and (self._end_told or self._protocol is None) and not self._is_lost:
            self.session.forget(self.id)
            if self._protocol is not None:
                self.lost(None)

    # Ending.

    def is_closing(self) -> bool:
        """Return whether :meth:`close` or :meth:`abort` was called, or the stream is lost."""
        return self._closing or self._is_lost

    def close(self) -> None:
        """Send what is pending and the end; received bytes are thrown away from now on."""
        if self._closing or self._is_lost:
            return
        self._closing = True
        self._paused = False
        self._received.clear()
        if self._buffered:
            self._take(self._buffered)
        self._end_told = True
        self.write_eof()
        self._maybe_done()

    def abort(self) -> None:
        """Reset the stream: the peer gets ConnectionResetError."""
        if self._is_lost:
            return
        self._closing = True
        self.session.mux.reset(self.id)
        self.session.flush_soon()
        self.session.forget(self.id)
        self.lost(None)
