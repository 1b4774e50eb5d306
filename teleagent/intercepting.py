"""A redirected TCP connection: offered to the daemon (intercept), or the application's with a copy for the daemon (wiretap)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from teleagent import application
from teleagent.arrivals import Arriving, Port
from teleagent.tapping import Budget, Copy, Tally
from telewire import relay
from telewire.errors import TeleError
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)


class Claim(Port):
    """A redirected port and whom its traffic is for; ``tally`` is None for an intercept."""

    def __init__(self, slot: int, port: int, protocol: str) -> None:
        super().__init__(port, protocol)
        self.slot = slot
        self.owner: Stream | None = None
        self.tally: Tally | None = None
        self._offers: set[asyncio.Task[Stream]] = set()
        self._refused = False

    def linked(self) -> Session | None:
        """Return the session, while its daemon can be reached."""
        return self.session if self.session is not None and self.session.connected else None

    async def offered(self, peer: str) -> Stream | None:
        """Return a stream on which the daemon takes what ``peer`` has begun; None if it does not, or cannot be reached."""
        session = self.linked()
        if session is None:
            return None
        offer = asyncio.get_running_loop().create_task(self.offer(session, peer))
        self._offers.add(offer)
        try:
            await asyncio.wait((offer,))
            stream = offer.result()
        except asyncio.CancelledError:
            if not offer.cancelled():
                offer.cancel()
                raise
            return None
        except (TeleError, OSError, EOFError) as error:
            if not self._refused:
                log.info("port %d/%s goes to the application for now: %s", self.port, self.protocol, error)
            self._refused = True
            return None
        finally:
            self._offers.discard(offer)
        self._refused = False
        return stream

    def withdraw(self) -> None:
        """The daemon cannot be reached: what was offered to it goes to the application."""
        for offer in self._offers:
            offer.cancel()

    def copy(self, peer: str, budget: Budget) -> Copy | None:
        """Return a new copy for the daemon of what ``peer`` sends; None if this is no wiretap or the daemon cannot be reached."""
        session = self.linked()
        if session is None or self.tally is None or self.tally.finished:
            return None
        message = {"op": "tap", "port": self.port, "protocol": self.protocol, "peer": peer}
        return Copy(session, self.tally, budget, message, probed=self.probed)


class Owner(Protocol):
    """Who knows what a redirected connection is for."""

    slot: int
    budget: Budget

    def claim(self, port: int, protocol: str) -> Claim | None:
        """Return whose ``port`` is; None if it has just been given back."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``."""

    @property
    def own_port(self) -> int:
        """The port that others are redirected to."""


class _Tapped(asyncio.Transport):
    """The application's transport, whose writer's bytes and end are copied."""

    def __init__(self, transport: asyncio.Transport, copy: Copy) -> None:
        super().__init__()
        self._transport = transport
        self._copy = copy
        for name in (
            "abort", "can_write_eof", "close", "get_extra_info", "get_protocol", "get_write_buffer_size", "is_closing",
            "is_reading", "pause_reading", "resume_reading", "set_protocol", "set_write_buffer_limits",
        ):  # fmt: skip
            setattr(self, name, getattr(transport, name))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, and copy."""
        self._transport.write(data)
        self._copy.feed(bytes(data))

    def write_eof(self) -> None:
        """End, and end the copy."""
        self._transport.write_eof()
        self._copy.end()


class Redirected(Arriving):
    """A TCP connection that was meant for a port of the application."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.spawn)
        self._owner = owner

    async def run(self) -> None:
        """Find out who gets it."""
        transport = self.transport
        assert transport is not None
        here, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        try:
            if self.lost or not peer or here[1] == self._owner.own_port:  # the last would be a loop
                relay.reset(transport)
                return
            claim = self._owner.claim(here[1], "tcp")
            if claim is None:
                await self._to_application(transport, here)
            elif claim.tally is not None:
                await self._to_application(transport, here, lambda: claim.copy(peer[0], self._owner.budget))
            else:
                await self._intercepted(transport, here, claim, peer[0])
        except (TeleError, OSError) as error:
            log.debug("connection on port %d: the application does not take it: %s", here[1], error)
            relay.reset(transport)

    async def _intercepted(self, transport: asyncio.Transport, here: Any, claim: Claim, peer: str) -> None:
        if claim.probed and await self.is_probe():
            await self._to_application(transport, here)
            return
        stream = await claim.offered(peer)
        if stream is None:
            await self._to_application(transport, here)
        elif self.lost:
            stream.abort()
        else:
            self.replay(stream)
            application.handed(transport, stream)

    async def _to_application(
        self, transport: asyncio.Transport, here: Any, copied: Callable[[], Copy | None] | None = None
    ) -> None:
        """Connect with the application and relay. OSError if it does not take the connection."""
        other = await application.dial(self._owner.slot, here[0], here[1])
        if self.lost:
            relay.reset(other)
            return
        copy = copied() if copied else None
        target = _Tapped(other, copy) if copy else other
        self.replay(target)
        done = application.join(transport, target)
        if copy:
            done.add_done_callback(lambda _: copy.end())
