"""A byte stream that survives its link: what was sent is kept until the peer has acknowledged it. Sans-io.

Link frames: 1 byte type, 4 bytes big-endian length, body. DATA carries bytes of the stream, ACK the total that was received, PING and
PONG eight bytes that come back. On a new link each end resends from the total that the other says it has.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from telewire.errors import TeleError

FRAME = struct.Struct(">BI")
TOTAL = struct.Struct(">Q")
DATA, ACKNOWLEDGE, PING, PONG = range(4)
ACKNOWLEDGE_EACH = 256 * 1024


class ResumeError(TeleError):
    """The peer's account of what it has received cannot be right; the session is lost."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping with these eight bytes."""

    opaque: bytes


class Resumable:
    """One end of a resumable stream. ``limit`` bytes at most wait for acknowledgement before :attr:`full` is true."""

    def __init__(self, limit: int = 32 << 20) -> None:
        self.limit = limit
        self.received = 0
        self._acknowledged_to_peer = 0
        self._sent = 0
        self._kept: deque[memoryview] = deque()
        self._kept_from = 0
        self._header = b""
        self._kind = DATA
        self._remaining = 0
        self._body = b""

    @property
    def unacknowledged(self) -> int:
        """How many sent bytes the peer has not acknowledged."""
        return self._sent - self._kept_from

    @property
    def total_sent(self) -> int:
        """How many bytes were sent since the session began."""
        return self._sent

    @property
    def full(self) -> bool:
        """Whether nothing more should be sent until the peer has acknowledged."""
        return self.unacknowledged >= self.limit

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether bytes were received that were not acknowledged yet."""
        return self.received != self._acknowledged_to_peer

    def send(self, chunks: list[bytes | memoryview]) -> bytes:
        """Keep ``chunks`` and return them framed for the link; empty if there is nothing in them."""
        size = sum(map(len, chunks))
        if not size:
            return b""
        frame = b"".join((FRAME.pack(DATA, size), *chunks))
        self._kept.append(memoryview(frame)[FRAME.size :])
        self._sent += size
        return frame

    def acknowledge(self) -> bytes:
        """Return the frame that tells the peer what has been received."""
        self._acknowledged_to_peer = self.received
        return FRAME.pack(ACKNOWLEDGE, TOTAL.size) + TOTAL.pack(self.received)

    def ping(self, opaque: bytes) -> bytes:
        """Return a frame that the peer answers; ``opaque`` is eight bytes."""
        return FRAME.pack(PING, len(opaque)) + opaque

    def check(self, peer_received: int) -> None:
        """ResumeError if the peer claims more than was sent, or less than it acknowledged before."""
        if not self._kept_from <= peer_received <= self._sent:
            raise ResumeError(
                f"the peer has {peer_received} bytes of the session, this end {self._kept_from} to {self._sent}; it cannot go on"
            )

    def attach(self, peer_received: int) -> list[bytes | memoryview]:
        """Begin on a new link whose peer has ``peer_received`` bytes; return the frames to resend. ResumeError as :meth:`check`."""
        self.check(peer_received)
        self._drop(peer_received)
        self._header, self._body, self._remaining = b"", b"", 0
        self._acknowledged_to_peer = self.received
        frames: list[bytes | memoryview] = []
        for data in self._kept:
            frames += (FRAME.pack(DATA, len(data)), data)
        return frames

    def receive(self, data: bytes | memoryview) -> tuple[list[memoryview], list[bytes], list[Pong]]:
        """Take bytes from the link; return the stream's bytes, frames to send back at once, and pongs."""
        payload: list[memoryview] = []
        replies: list[bytes] = []
        pongs: list[Pong] = []
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if not self._remaining:
                wanted = FRAME.size - len(self._header)
                self._header += bytes(view[position : position + wanted])
                position += wanted
                if len(self._header) < FRAME.size:
                    break
                self._kind, self._remaining = FRAME.unpack(self._header)
                self._header = b""
                if self._kind > PONG or (self._kind != DATA and self._remaining != TOTAL.size):
                    raise ResumeError(f"link frame of type {self._kind} and length {self._remaining} is not known")
                continue
            size = min(self._remaining, end - position)
            part = view[position : position + size]
            position += size
            self._remaining -= size
            if self._kind == DATA:
                payload.append(part)
                self.received += size
                continue
            self._body += bytes(part)
            if not self._remaining:
                body, self._body = self._body, b""
                if self._kind == ACKNOWLEDGE:
                    self._acknowledged(TOTAL.unpack(body)[0])
                elif self._kind == PING:
                    replies.append(FRAME.pack(PONG, len(body)) + body)
                else:
                    pongs.append(Pong(body))
        if self.received - self._acknowledged_to_peer >= ACKNOWLEDGE_EACH:
            replies.append(self.acknowledge())
        return payload, replies, pongs

    def _acknowledged(self, total: int) -> None:
        if total > self._sent:
            raise ResumeError(f"the peer acknowledged {total} bytes, only {self._sent} were sent")
        self._drop(total)

    def _drop(self, total: int) -> None:
        while self._kept and self._kept_from + len(self._kept[0]) <= total:
            self._kept_from += len(self._kept.popleft())
        if self._kept and total > self._kept_from:
            first = self._kept[0]
            self._kept[0] = first[total - self._kept_from :]
            self._kept_from = total
