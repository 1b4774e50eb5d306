"""Copies of what clients send, for the daemon. A copy never holds its original up: what the daemon does not take in time is given up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from typing import Any, cast

from teleagent.probes import Verdict, judge
from telewire.errors import TeleError
from telewire.messages import LENGTH, MESSAGE_LIMIT, send_message
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

COPY_BYTES = 256 * 1024
ALL_COPIES_BYTES = 4 << 20
"""Bytes that wait for the daemon, of one copy and of all that the agent makes: it shares the pod's memory limit."""
UNACKNOWLEDGED_BYTES = 4 << 20
"""Bytes that a session may have under way before copies wait."""
RETRY = 0.1
LAST_WORDS = 30.0
"""Seconds that the daemon has, after the client's end, to take what is left and to answer."""
REPORT_EACH = 1.0


class Budget:
    """How many bytes of copies wait for the daemon."""

    def __init__(self, limit: int = ALL_COPIES_BYTES) -> None:
        self.limit = limit
        self.used = 0


class Tally:
    """What is told on a ``listen`` stream: ``copies`` that the daemon has accepted, ``lost`` those that it did not get whole."""

    def __init__(self, stream: Stream) -> None:
        self.copies = 0
        self.lost = 0
        self.live: set[Copy] = set()
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._told = self._loop.time() - REPORT_EACH
        self._timer: asyncio.TimerHandle | None = None
        self.finished = False

    def count(self, *, copies: int = 0, lost: int = 0) -> None:
        """Count, and tell it, though not too often."""
        self.copies += copies
        self.lost += lost
        if self._timer is None and not self.finished:
            self._timer = self._loop.call_at(max(self._loop.time(), self._told + REPORT_EACH), self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._told = self._loop.time()
        send_message(self._stream, {"copies": self.copies, "lost": self.lost})

    def finish(self) -> None:
        """Stop the copies that are being made; tell it for the last time."""
        if self.finished:
            return
        self.finished = True
        if self._timer is not None:
            self._timer.cancel()
        self._tell()
        for copy in list(self.live):
            copy.stop()


class Copy(asyncio.Protocol):
    """What one client sends, on its way to the daemon on a stream ``tap``; the protocol of that stream.

    ``probed``: the stream is opened only when the first bytes have shown that they are not the kubelet's.
    """

    def __init__(
        self, session: Session, tally: Tally, budget: Budget, message: dict[str, Any], *, probed: bool
    ) -> None:
        self._session = session
        self._tally = tally
        self._budget = budget
        self._message = message
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._kept: deque[bytes] = deque()
        self._held = 0
        self._in_stream = 0
        self._waits = False
        self._ended = False
        self._end_sent = False
        self._over = False
        self._answer = b""
        self._accepted = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._undecided = probed
        tally.live.add(self)
        if not probed:
            self._guarded(self._open)

    def feed(self, data: bytes) -> None:
        """Copy ``data``, or give the copy up. Raises nothing."""
        if not self._over and not self._ended:
            self._guarded(self._take, data)

    def end(self) -> None:
        """The client sends no more. Raises nothing."""
        if not self._over and not self._ended:
            self._ended = True
            self._guarded(self._last)

    def stop(self) -> None:
        """Nobody wants the rest."""
        if not self._over:
            self._finish()
            if self._stream is not None:
                self._stream.abort()

    def _finish(self) -> None:
        self._over = True
        self._tally.live.discard(self)
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        self._timer = self._deadline = None
        self._kept.clear()
        self._hold(-self._held)

    def _guarded(self, work: Any, *arguments: Any) -> None:
        """The original must go on whatever becomes of its copy."""
        try:
            work(*arguments)
        except Exception as error:
            if not isinstance(error, (TeleError, OSError)):
                log.error("an error of the agent in a copy", exc_info=error)
            self._give_up(str(error))

    def _open(self) -> None:
        stream = self._stream = self._session.open_stream()
        stream.set_write_buffer_limits(high=0, low=0)
        send_message(stream, self._message)
        stream.set_protocol(self)

    def _take(self, data: bytes) -> None:
        if self._stream is not None and not self._held and not self._behind():
            self._stream.write(data)  # what is over waits in the stream, as pause_writing counts it
        else:
            self._kept.append(data)
            self._hold(len(data))
            self._recount()
        if self._held > COPY_BYTES or self._budget.used > self._budget.limit:
            self._give_up("the daemon does not take it in time")
        else:
            self._flush()

    def _last(self) -> None:
        if self._undecided:
            if not self._kept:  # a probe by TCP looks like this
                self._finish()
                return
            self._undecided = False
            self._open()
        self._deadline = self._loop.call_later(LAST_WORDS, self._give_up, "the daemon did not take its end in time")
        self._flush()

    def _hold(self, size: int) -> None:
        self._held += size
        self._budget.used += size

    def _recount(self) -> None:
        """Count what waits in the stream as it is now."""
        waiting = self._stream.get_write_buffer_size() if self._stream is not None else 0
        self._hold(waiting - self._in_stream)
        self._in_stream = waiting

    def _behind(self) -> bool:
        return not self._session.connected or self._session.resume.unacknowledged > UNACKNOWLEDGED_BYTES

    def _decide(self) -> bool:
        """Return whether it is known by now that this is to be copied."""
        verdict = judge(b"".join(self._kept))
        if verdict is Verdict.PROBE:
            self._finish()
        elif verdict is Verdict.TRAFFIC:
            self._undecided = False
            self._open()
        return not self._undecided

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (self._undecided and not self._decide()) or self._over or self._stream is None:
            return
        while self._kept and not self._waits:
            if self._behind():
                self._timer = self._loop.call_later(RETRY, self._guarded, self._flush)
                return
            data = self._kept.popleft()
            self._hold(-len(data))
            self._stream.write(data)
        if self._ended and not self._kept and not self._end_sent:
            self._end_sent = True
            self._stream.write_eof()
            self._maybe_through()

    def _give_up(self, why: str) -> None:
        if not self._over:
            log.debug("a copy on port %s is lost: %s", self._message["port"], why)
            self._tally.count(lost=1)
            self.stop()

    def _maybe_through(self) -> None:
        if self._end_sent and self._accepted and not self._waits and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Called by the stream.

    def pause_writing(self) -> None:
        """Keep what comes."""
        if not self._over:
            self._waits = True
            self._recount()

    def resume_writing(self) -> None:
        """Hand on what was kept."""
        if not self._over:
            self._waits = False
            self._recount()
            self._guarded(self._flush)
            self._maybe_through()

    def data_received(self, data: bytes) -> None:
        """Take the daemon's answer; nothing else is said."""
        if not self._accepted and not self._over:
            self._guarded(self._answered, data)

    def _answered(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) < LENGTH.size:
            return
        (size,) = LENGTH.unpack_from(self._answer)
        if size > MESSAGE_LIMIT:
            raise TeleError("the answer is none; the peers' versions differ")
        if len(self._answer) < LENGTH.size + size:
            return
        try:
            answer = json.loads(self._answer[LENGTH.size :])
        except ValueError as error:
            raise TeleError(f"the answer is no JSON: {error}") from None
        self._answer = b""
        if not isinstance(answer, dict) or not answer.get("ok"):
            raise TeleError(f"the daemon refuses it: {cast('Any', answer)}")
        self._accepted = True
        self._tally.count(copies=1)
        self._maybe_through()

    def eof_received(self) -> bool:
        """The daemon's own end says nothing, once it has accepted."""
        if not self._accepted:
            self._give_up("the daemon has not accepted it")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is through, or reset."""
        if exc is not None:
            self._give_up(str(exc))
        elif not self._over:
            self._finish()
