"""Joining two transports: bytes, back-pressure, half-close and reset, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import cast

from telewire.stream import Stream

_SHARED = bytearray(256 * 1024)
_SHARED_VIEW = memoryview(_SHARED)
"""One read buffer for all sockets: ``buffer_updated`` is called before the next read (5,000 buffers would be 1.3 GB)."""

LINGER_ZERO = struct.pack("ii", 1, 0)


def reset(transport: asyncio.BaseTransport) -> None:
    """Abort ``transport`` so that its peer sees a reset, not an end."""
    if not isinstance(transport, Stream):
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    cast("asyncio.WriteTransport", transport).abort()


class _Half:
    """What both kinds of side share: the other side, and when all is over."""

    transport: asyncio.Transport
    peer: _Half
    done: asyncio.Future[None]
    lost = False

    def eof_received(self) -> bool:
        if not self.peer.lost and self.peer.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if not self.peer.lost:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.lost:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.peer.lost:
            if error is not None:
                reset(self.peer.transport)
            else:
                self.peer.transport.close()
        elif not self.done.done():
            self.done.set_result(None)


class _SocketHalf(_Half, asyncio.BufferedProtocol):
    """A kernel socket, read into the shared buffer."""

    ended = False

    def get_buffer(self, _hint: int) -> memoryview:
        return _SHARED_VIEW

    def buffer_updated(self, size: int) -> None:
        if not self.peer.lost:
            self.peer.transport.write(bytes(_SHARED_VIEW[:size]))

    def eof_received(self) -> bool:
        self.ended = True
        super().eof_received()
        if (
            isinstance(self.peer, _SocketHalf) and self.peer.ended
        ):  # a socket does not close when both directions have ended
            self.transport.close()
            self.peer.transport.close()
        return True


class _StreamHalf(_Half, asyncio.Protocol):
    """A stream of a session."""

    def data_received(self, data: bytes) -> None:
        if not self.peer.lost:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        return super().eof_received()


def join(a: asyncio.Transport, b: asyncio.Transport) -> asyncio.Future[None]:
    """Relay between two transports until both are closed; return a future that is done then. Both are taken over.

    The end of one side closes the other by half, the loss of one with an error resets the other.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    halves: list[_Half] = [_StreamHalf() if isinstance(t, Stream) else _SocketHalf() for t in (a, b)]
    for half, peer, transport in ((halves[0], halves[1], a), (halves[1], halves[0], b)):
        half.peer, half.transport, half.done = peer, transport, done
    sockets = [half for half in halves if isinstance(half, _SocketHalf)]
    waiting = [(half.transport.get_protocol(), half.peer.transport) for half in sockets]
    was_reading = {half: half.transport.is_reading() for half in halves}
    # Streams last: they deliver at once, and what is paused by that stays so.
    for half in sorted(halves, key=lambda half: isinstance(half, _StreamHalf)):
        if not isinstance(half.transport, Stream):
            half.transport.set_write_buffer_limits(high=256 * 1024)
        half.transport.set_protocol(cast("asyncio.BaseProtocol", half))
        if not was_reading[half]:
            half.transport.resume_reading()
    for protocol, other in waiting:
        if isinstance(protocol, Waiting):
            protocol.give(other)
    return done


class Waiting(asyncio.Protocol):
    """The protocol of a socket that is to be joined: reads nothing, remembers its loss.

    uvloop begins to read an accepted connection after ``connection_made``, whatever that has paused: what comes then is kept for
    the join.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._early = b""
        self._early_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stop reading until somebody joins."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Keep it, and read no more."""
        self._early += data
        if self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Remember it: the other direction may go on."""
        self._early_end = True
        return True

    def give(self, other: asyncio.WriteTransport) -> None:
        """Write to ``other`` what has come too early, and its end."""
        if self._early:
            other.write(self._early)
            self._early = b""
        if self._early_end and other.can_write_eof():
            other.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember it."""
        self.lost = True
