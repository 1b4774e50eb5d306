from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from telewire import session as session_module
from telewire.resume import FRAME, PING, PONG
from telewire.session import Session
from tests.telewire.conftest import Pair, Wire, turns, until


class Silent:
    """A session whose peer says only what a test says for it."""

    def __init__(self) -> None:
        self.session = Session(client=True)
        self.lost: list[Exception | None] = []
        self.session.on_link_lost = self.lost.append
        self.attach()

    def attach(self) -> None:
        """Go on over a new link."""
        self.wire = Wire()
        self.heard: list[bytes] = []
        self.wire.b.take = self.heard.append
        self.session.attach(self.wire.a, 0)

    def say_something(self) -> None:
        """Let bytes come from the peer."""
        self.session.link_data(self.wire.a, FRAME.pack(PING, 8) + bytes(8))

    def pings(self) -> int:
        """Return how many pings have come to the peer."""
        return sum(part.startswith(FRAME.pack(PING, 8)) for part in self.heard)


@pytest.fixture
async def silent() -> AsyncIterator[Silent]:
    made = Silent()
    yield made
    made.session.close()
    await turns(2)


async def test_a_new_link_is_pinged_and_the_round_trip_measured(pair: Pair) -> None:
    await until(lambda: pair.client.rtt is not None and pair.server.rtt is not None)
    assert pair.client.rtt is not None
    assert pair.client.mux.round_trip <= pair.client.rtt
    assert 0 <= pair.client.rtt < 5


async def test_a_ping_is_answered_at_once(silent: Silent) -> None:
    silent.say_something()
    await turns()
    assert FRAME.pack(PONG, 8) + bytes(8) in silent.heard


async def test_every_new_link_is_pinged_and_told(silent: Silent) -> None:
    attached: list[bool] = []
    silent.session.on_attached = lambda: attached.append(silent.session.connected)
    for _ in range(2):
        silent.attach()
        await turns()
        assert silent.pings() == 1
    assert attached == [True, True]


async def test_a_link_over_which_nothing_comes_is_given_up(silent: Silent) -> None:
    silent.session.watch_closely(0.02, 0.1)
    began = time.monotonic()
    await until(lambda: not silent.session.connected)
    assert time.monotonic() - began >= 0.1
    assert "nothing came over the link for 0.1 s" in str(silent.session.last_error)
    assert [type(error) for error in silent.lost] == [TimeoutError]
    assert silent.wire.a.closed
    assert not silent.session.closed.done(), "the session waits for another link"
    assert silent.pings() >= 2


async def test_pings_keep_a_link_alive_on_which_nothing_else_happens(pair: Pair) -> None:
    for session in (pair.client, pair.server):
        session.watch_closely(0.02, 0.25)
    await asyncio.sleep(0.6)
    assert pair.client.connected
    assert pair.server.connected


async def test_one_end_may_watch_closely_while_the_other_does_not(pair: Pair) -> None:
    pair.client.watch_closely(0.02, 0.25)
    await asyncio.sleep(0.5)
    assert pair.client.connected
    pair.wire.b.take = lambda _data: None
    await until(lambda: not pair.client.connected)
    assert not pair.server.closed.done()


async def test_what_comes_at_the_last_moment_saves_the_link(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LAST_LOOK", 0.1)
    silent.session.watch_closely(0.05, 0.1)
    loop = asyncio.get_running_loop()
    for late in (0.11, 0.22, 0.33):
        loop.call_later(late, silent.say_something)
    await asyncio.sleep(0.36)
    assert silent.session.connected


async def test_a_busy_event_loop_is_not_taken_for_a_dead_link(pair: Pair) -> None:
    pair.client.watch_closely(0.02, 0.1)
    for _ in range(3):
        await asyncio.sleep(0.03)
        time.sleep(0.15)  # noqa: ASYNC251 - that is the point
    await turns()
    assert pair.client.connected


async def test_watching_begins_anew_when_the_terms_change(silent: Silent) -> None:
    await asyncio.sleep(0.15)
    silent.session.watch_closely(0.05, 0.1)
    await turns()
    assert silent.session.connected, "silence so far was within what was agreed"
    silent.session.watch_normally()
    await asyncio.sleep(0.25)
    assert silent.session.connected


async def test_terms_hold_for_the_next_link_too(silent: Silent) -> None:
    silent.wire.cut()
    silent.session.watch_closely(0.02, 0.1)
    await asyncio.sleep(0.15)
    silent.attach()
    await until(lambda: not silent.session.connected, 2)


async def test_nothing_is_pinged_without_a_link(silent: Silent) -> None:
    silent.session.watch_closely(0.01, 5)
    silent.wire.cut()
    written = silent.wire.a.written
    await asyncio.sleep(0.05)
    assert silent.wire.a.written == written


def test_a_death_is_seen_within_a_second_where_it_matters() -> None:
    assert session_module.CLOSE_LINK_TIMEOUT + session_module.LAST_LOOK < 1
    assert session_module.CLOSE_PING_EACH * 2 < session_module.CLOSE_LINK_TIMEOUT
    assert session_module.PING_EACH * 2 < session_module.LINK_TIMEOUT
