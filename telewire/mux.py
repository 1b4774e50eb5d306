"""The stream multiplexer: yamux framing as a sans-io core (https://github.com/hashicorp/yamux/blob/master/spec.md).

Bytes in (:meth:`Mux.receive`) give events, calls (:meth:`Mux.open_stream`, :meth:`Mux.send`, …) give bytes out
(:meth:`Mux.data_to_send`). No sockets, no clock but the one that is handed in.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from telewire.errors import TeleError

HEADER = struct.Struct(">BBHII")
TYPE_DATA, TYPE_WINDOW, TYPE_PING, TYPE_GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW = 256 * 1024
MAX_FRAME = 64 * 1024
LONGEST_ROUND_TRIP = 0.1
"""Seconds that are taken for a round trip until one is known."""
SHORTEST_ROUND_TRIP = 0.002
"""Seconds that are taken for one at least: on a short way it is the processes at both ends that take their time."""


class ProtocolError(TeleError):
    """The peer broke the framing or the flow control; the connection is of no further use."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer has opened stream ``id``."""

    id: int


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes of stream ``id``; a view that is valid until the next call of :meth:`Mux.receive`."""

    id: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer will send no more on stream ``id``."""

    id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer has given up stream ``id``; it is forgotten."""

    id: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """Stream ``id`` may send again."""

    id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer accepts no new streams."""

    code: int


Event = StreamOpened | DataReceived | StreamEnded | StreamReset | WindowOpened | GoneAway


class _Flow:
    """What is known of one stream."""

    __slots__ = ("consumed", "limit", "local_ended", "receive_window", "remote_ended", "send_window", "updated")

    def __init__(self, now: float) -> None:
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        self.limit = INITIAL_WINDOW
        self.consumed = 0
        self.updated = now
        self.local_ended = False
        self.remote_ended = False


class Mux:
    """One end of a multiplexed connection; ``client`` opens odd stream IDs, the other end even ones.

    Receive windows start at 256 KiB, as yamux fixes them, and double up to ``max_window`` bytes while half of one is used up in less
    than two round trips and the sum of all of them stays below ``max_total``. More would only lie about, in buffers on the way and in
    the memory of both ends.

    :ivar round_trip: seconds; told by who uses it
    """

    def __init__(
        self,
        client: bool,
        *,
        max_window: int = 16 << 20,
        max_total: int = 64 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._next_id = 1 if client else 2
        self._peer_parity = 0 if client else 1
        self._max_window = max_window
        self._max_total = max_total
        self._total = 0
        self._clock = clock
        self._flows: dict[int, _Flow] = {}
        self._out: list[bytes | memoryview] = []
        self._partial = b""
        self._remaining = 0
        self._current = 0
        self._ends = 0
        self.refuses_streams = False
        self.round_trip = LONGEST_ROUND_TRIP

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len(self._flows)

    def data_to_send(self) -> list[bytes | memoryview]:
        """Return what is to be sent since the last call, in order."""
        out, self._out = self._out, []
        return out

    def open_stream(self) -> int:
        """Open a stream; return its ID. ProtocolError if the peer has gone away."""
        if self.refuses_streams:
            raise ProtocolError("the peer accepts no new streams")
        stream, self._next_id = self._next_id, self._next_id + 2
        self._add(stream)
        self._out.append(HEADER.pack(0, TYPE_WINDOW, SYN, stream, 0))
        return stream

    def send_window(self, stream: int) -> int:
        """Return how many bytes ``stream`` may send now; 0 for one that is gone."""
        flow = self._flows.get(stream)
        return flow.send_window if flow and not flow.local_ended else 0

    def send(self, stream: int, data: bytes | memoryview) -> int:
        """Send as much of ``data`` as the window allows; return how many bytes that was."""
        flow = self._flows.get(stream)
        if flow is None or flow.local_ended:
            return 0
        total = min(len(data), flow.send_window)
        if not total:
            return 0
        flow.send_window -= total
        if total <= MAX_FRAME and total == len(data):
            self._out.append(HEADER.pack(0, TYPE_DATA, 0, stream, total))
            self._out.append(data)
            return total
        view = memoryview(data)
        for start in range(0, total, MAX_FRAME):
            part = view[start : min(start + MAX_FRAME, total)]
            self._out.append(HEADER.pack(0, TYPE_DATA, 0, stream, len(part)))
            self._out.append(part)
        return total

    def end(self, stream: int) -> None:
        """Send no more on ``stream``; what the peer sends still comes."""
        flow = self._flows.get(stream)
        if flow is None or flow.local_ended:
            return
        flow.local_ended = True
        self._out.append(HEADER.pack(0, TYPE_WINDOW, FIN, stream, 0))
        if flow.remote_ended:
            self._forget(stream)

    def reset(self, stream: int) -> None:
        """Give ``stream`` up in both directions."""
        if stream in self._flows:
            self._out.append(HEADER.pack(0, TYPE_WINDOW, RST, stream, 0))
            self._forget(stream)

    def consumed(self, stream: int, size: int) -> None:
        """Say that ``size`` received bytes of ``stream`` are used, so that the peer may send more."""
        flow = self._flows.get(stream)
        if flow is None or flow.remote_ended:
            return
        flow.consumed += size
        if flow.consumed < flow.limit // 2:
            return
        now = self._clock()
        credit = flow.consumed
        soon = now - flow.updated < 2 * max(self.round_trip, SHORTEST_ROUND_TRIP)
        if soon and flow.limit < self._max_window and self._total < self._max_total:
            grown = min(flow.limit, self._max_window - flow.limit, self._max_total - self._total)
            flow.limit += grown
            self._total += grown
            credit += grown
        flow.updated = now
        flow.consumed = 0
        flow.receive_window += credit
        self._out.append(HEADER.pack(0, TYPE_WINDOW, 0, stream, credit))

    def go_away(self, code: int = 0) -> None:
        """Tell the peer to open no more streams; ``code`` 0 is normal, 1 protocol error, 2 internal error."""
        self._out.append(HEADER.pack(0, TYPE_GO_AWAY, 0, 0, code))

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Take bytes from the peer; return what they mean. ProtocolError if they mean nothing."""
        events: list[Event] = []
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self._remaining:
                size = min(self._remaining, end - position)
                if self._current in self._flows:
                    events.append(DataReceived(self._current, view[position : position + size]))
                position += size
                self._remaining -= size
                if not self._remaining and self._ends:
                    self._peer_ended(self._current, self._ends, events)
                continue
            if self._partial or end - position < HEADER.size:
                wanted = HEADER.size - len(self._partial)
                self._partial += bytes(view[position : position + wanted])
                position += wanted
                if len(self._partial) < HEADER.size:
                    break
                header, self._partial = HEADER.unpack(self._partial), b""
            else:
                header = HEADER.unpack_from(view, position)
                position += HEADER.size
            self._frame(header, events)
        return events

    def _frame(self, header: tuple[int, int, int, int, int], events: list[Event]) -> None:
        version, kind, flags, stream, length = header
        if version != 0:
            raise ProtocolError(f"yamux version {version} is not known; the peers' versions differ")
        if kind == TYPE_PING:
            if flags & SYN:
                self._out.append(HEADER.pack(0, TYPE_PING, ACK, 0, length))
            return
        if kind == TYPE_GO_AWAY:
            self.refuses_streams = True
            events.append(GoneAway(length))
            return
        if kind not in (TYPE_DATA, TYPE_WINDOW):
            raise ProtocolError(f"yamux frame type {kind} is not known")
        if flags & SYN:
            if not stream or stream % 2 != self._peer_parity or stream in self._flows:
                raise ProtocolError(f"the peer opened stream {stream}, which is not its to open")
            self._add(stream)
            self._out.append(HEADER.pack(0, TYPE_WINDOW, ACK, stream, 0))
            events.append(StreamOpened(stream))
        flow = self._flows.get(stream)
        if kind == TYPE_DATA:
            self._remaining, self._current, self._ends = length, stream, flags & (FIN | RST)
            if flow is not None:
                if length > flow.receive_window or flow.remote_ended:
                    raise ProtocolError(f"the peer sent more on stream {stream} than its window allows")
                flow.receive_window -= length
            if length:
                return
        elif flow is not None and length:
            blocked = flow.send_window == 0
            flow.send_window += length
            if blocked:
                events.append(WindowOpened(stream))
        if flags & (FIN | RST):
            self._peer_ended(stream, flags, events)

    def _peer_ended(self, stream: int, flags: int, events: list[Event]) -> None:
        flow = self._flows.get(stream)
        self._ends = 0
        if flow is None:
            return
        if flags & RST:
            self._forget(stream)
            events.append(StreamReset(stream))
        elif not flow.remote_ended:
            flow.remote_ended = True
            events.append(StreamEnded(stream))
            if flow.local_ended:
                self._forget(stream)

    def _add(self, stream: int) -> None:
        self._flows[stream] = _Flow(self._clock())
        self._total += INITIAL_WINDOW

    def _forget(self, stream: int) -> None:
        flow = self._flows.pop(stream)
        self._total -= flow.limit
