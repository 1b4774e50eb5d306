"""A session: streams over a resumable byte stream over links that come and go (asyncio)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from telewire.errors import TeleError
from telewire.mux import (
    DataReceived,
    Event,
    GoneAway,
    Mux,
    ProtocolError,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
)
from telewire.resume import Resumable, ResumeError
from telewire.stream import Stream

log = logging.getLogger(__name__)

PING_EACH = 5.0
LINK_TIMEOUT = 15.0
CLOSE_PING_EACH = 0.25
CLOSE_LINK_TIMEOUT = 0.9
"""Seconds, while a link's death must be seen soon: real traffic depends on it."""
LAST_LOOK = 0.02
"""Seconds in which the event loop reads what has come already, before a silent link is taken for dead: it may have been busy itself."""
ACKNOWLEDGE_WITHIN = 0.2
ROUND_TRIPS = 8
"""Of so many pings the quickest counts: the others have waited behind data."""


class SessionLost(TeleError, ConnectionResetError):
    """The session has ended: closed, not resumed in time, or broken by the peer."""

    code = "unavailable"


class Link(Protocol):
    """What carries a session's bytes for a while. It calls ``link_data``, ``link_paused``, ``link_resumed`` and ``link_lost``."""

    def write(self, data: bytes) -> None:
        """Send ``data``; buffering is the link's business, told by ``link_paused`` and ``link_resumed``."""

    def close(self) -> None:
        """Close; ``link_lost`` need not be called any more."""


class Session:
    """One end of a session; ``client`` is the daemon's end. Not thread-safe.

    ``on_stream`` is called with each stream that the peer opens; without it they are reset. A session that is without a link for
    ``resume_timeout`` seconds is lost: its streams are reset and :attr:`closed` is done.
    """

    def __init__(
        self,
        *,
        client: bool,
        session_id: str | None = None,
        on_stream: Callable[[Stream], None] | None = None,
        resume_timeout: float = 120.0,
    ) -> None:
        self.id = session_id or os.urandom(16).hex()
        self.client = client
        self.mux = Mux(client)
        self.resume = Resumable()
        self.on_stream = on_stream
        self.resume_timeout = resume_timeout
        self.hello: dict[str, Any] = {}
        self.rtt: float | None = None
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self.last_error: str | None = None
        self.waiting: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.on_link_lost: Callable[[Exception | None], None] | None = None
        self.on_attached: Callable[[], None] | None = None
        self._streams: dict[int, Stream] = {}
        self._link: Link | None = None
        self._link_paused = False
        self._flushing = False
        self._last_heard = self._ping_due = 0.0
        self._ping_each, self._link_timeout = PING_EACH, LINK_TIMEOUT
        self._doubted = False
        self._ping: asyncio.TimerHandle | None = None
        self._acknowledge: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expire_later()

    @property
    def connected(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    @property
    def blocked(self) -> bool:
        """Whether streams must keep what they have to send: the link is behind, or too much is unacknowledged."""
        return self._link_paused or self.resume.full

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open_stream(self) -> Stream:
        """Open a stream; it works also while there is no link. SessionLost if the session has ended."""
        if self.closed.done():
            raise SessionLost(self.last_error or "the session has ended")
        stream = Stream(self, self.mux.open_stream())
        self._streams[stream.id] = stream
        self.flush_soon()
        return stream

    def forget(self, stream_id: int) -> None:
        """Drop a stream that is through. Called by the stream."""
        self._streams.pop(stream_id, None)
        self.waiting.discard(stream_id)

    # Links.

    def check(self, peer_received: int) -> None:
        """Raise what :meth:`attach` would: SessionLost if the session has ended, ResumeError if it cannot go on from there."""
        if self.closed.done():
            raise SessionLost(self.last_error or "the session has ended")
        self.resume.check(peer_received)

    def attach(self, link: Link, peer_received: int) -> None:
        """Go on over ``link``, whose peer has ``peer_received`` bytes. SessionLost or ResumeError if that cannot be."""
        self.check(peer_received)
        frames = self.resume.attach(peer_received)
        if self._link is not None:
            self._link.close()
        self._link, self._link_paused = link, False
        self.last_error = None
        self._cancel("_expiry")
        self._last_heard, self._doubted = self._loop.time(), False
        if frames:
            link.write(b"".join(frames))
        self._cancel("_ping")
        self._send_ping()
        self.flush_soon()
        self._pump()
        if self.on_attached is not None:
            self.on_attached()

    def watch_closely(self, ping_each: float = CLOSE_PING_EACH, link_timeout: float = CLOSE_LINK_TIMEOUT) -> None:
        """Ping each ``ping_each`` seconds from now on, and take a link for dead after ``link_timeout`` seconds of silence."""
        self._ping_each, self._link_timeout = ping_each, link_timeout
        self._last_heard, self._doubted = self._loop.time(), False  # silence so far was within what was agreed
        if self._link is not None:
            self._cancel("_ping")
            self._send_ping()

    def watch_normally(self) -> None:
        """Go back to the heartbeat of a session on which nothing depends at once."""
        self.watch_closely(PING_EACH, LINK_TIMEOUT)

    def link_data(self, link: Link, data: bytes | memoryview) -> None:
        """Take bytes that came over ``link``."""
        if link is not self._link:
            return
        self._last_heard = self._loop.time()
        try:
            was_full = self.resume.full
            payload, replies, pongs = self.resume.receive(data)
            for reply in replies:
                link.write(reply)
            for part in payload:
                self._events(part)
        except (ProtocolError, ResumeError) as error:
            self.close(str(error))
            return
        for pong in pongs:
            self.rtt = self._loop.time() - struct.unpack("d", pong.opaque)[0]
            self._round_trips.append(self.rtt)
            self.mux.round_trip = min(self._round_trips)
        if self.resume.owes_acknowledgement and self._acknowledge is None:
            self._acknowledge = self._loop.call_later(ACKNOWLEDGE_WITHIN, self._send_acknowledgement)
        if was_full and not self.resume.full:
            self._pump()
        self.flush_soon()

    def link_paused(self, link: Link) -> None:
        """``link`` has more to send than it likes."""
        if link is self._link:
            self._link_paused = True

    def link_resumed(self, link: Link) -> None:
        """``link`` takes more."""
        if link is self._link:
            self._link_paused = False
            self._pump()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        """``link`` is gone; wait for another one."""
        if link is not self._link:
            return
        self._link, self._link_paused = None, False
        self._cancel("_ping")
        self._cancel("_acknowledge")
        self.last_error = str(error) if error else "the link was closed"
        if self.closed.done():
            return
        self._expire_later()
        if self.on_link_lost is not None:
            self.on_link_lost(error)

    def close(self, reason: str | None = None) -> None:
        """End the session: reset its streams, close its link."""
        if self.closed.done():
            return
        self.closed.set_result(None)
        if reason:
            self.last_error = reason
        self._cancel("_ping")
        self._cancel("_acknowledge")
        self._cancel("_expiry")
        link, self._link = self._link, None
        if link is not None:
            link.close()
        streams, self._streams = list(self._streams.values()), {}
        self.waiting.clear()
        for stream in streams:
            stream.lost(SessionLost(reason or "the session was closed"))

    # Inside.

    def _events(self, part: memoryview) -> None:
        for event in self.mux.receive(part):
            if self.closed.done():
                return
            try:
                self._event(event)
            except Exception:  # of a stream's protocol: it costs this stream, not what came for the others
                log.exception("a stream's protocol failed")
                if not isinstance(event, GoneAway) and (stream := self._streams.get(event.id)) is not None:
                    stream.abort()

    def _event(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            if (stream := self._streams.get(event.id)) is not None:
                stream.data_received(event.data)
        elif isinstance(event, StreamOpened):
            stream = Stream(self, event.id)
            self._streams[event.id] = stream
            if self.on_stream is None:
                stream.abort()
            else:
                self.on_stream(stream)
        elif isinstance(event, WindowOpened):
            if event.id in self.waiting and not self.blocked:
                self._pump_one(event.id)
        elif isinstance(event, StreamEnded):
            if (stream := self._streams.get(event.id)) is not None:
                stream.end_received()
        elif isinstance(event, StreamReset):
            if (stream := self._streams.pop(event.id, None)) is not None:
                self.waiting.discard(event.id)
                stream.lost(ConnectionResetError("the peer reset the stream"))
        else:
            self.last_error = f"the peer goes away (code {event.code})"

    def _pump_one(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.pump():
            self.waiting.discard(stream_id)
        self.flush_soon()

    def _pump(self) -> None:
        for stream_id in list(self.waiting):
            if self.blocked:
                return
            self._pump_one(stream_id)

    def flush_soon(self) -> None:
        """Send what the multiplexer has to send, once in this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        frame = self.resume.send(self.mux.data_to_send())
        if frame and self._link is not None:
            self._link.write(frame)

    def _send_acknowledgement(self) -> None:
        self._acknowledge = None
        if self._link is not None and self.resume.owes_acknowledgement:
            self._link.write(self.resume.acknowledge())

    def _send_ping(self) -> None:
        self._ping = None
        if self._link is None:
            return
        now = self._loop.time()
        # What this loop was late by is no silence of the peer: it was not asked, and nobody listened.
        self._last_heard = min(now, self._last_heard + max(0.0, now - self._ping_due))
        if now - self._last_heard >= self._link_timeout:
            if not self._doubted:
                self._doubted = True
                self._ping_in(LAST_LOOK)
                return
            link = self._link
            link.close()
            self.link_lost(link, TimeoutError(f"nothing came over the link for {self._link_timeout:g} s"))
            return
        self._doubted = False
        self._link.write(self.resume.ping(struct.pack("d", now)))
        self._ping_in(min(self._ping_each, self._last_heard + self._link_timeout - now))

    def _ping_in(self, seconds: float) -> None:
        self._ping_due = self._loop.time() + seconds
        self._ping = self._loop.call_later(seconds, self._send_ping)

    def _expire_later(self) -> None:
        self._cancel("_expiry")
        self._expiry = self._loop.call_later(
            self.resume_timeout, self.close, f"no link for {self.resume_timeout:.0f} s; the session was given up"
        )

    def _cancel(self, name: str) -> None:
        handle = getattr(self, name)
        if handle is not None:
            handle.cancel()
            setattr(self, name, None)


async def finish(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
