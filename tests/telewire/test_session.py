from __future__ import annotations

import asyncio
import logging
import random

import pytest

from telewire import session as session_module
from telewire.mux import INITIAL_WINDOW
from telewire.resume import FRAME
from telewire.session import Session, SessionLost, finish
from telewire.stream import Stream
from tests.telewire.conftest import Pair, Wire, join, read_all, turns, until


async def test_a_session_has_an_id_of_32_hex_digits(pair: Pair) -> None:
    assert len(pair.client.id) == 32
    int(pair.client.id, 16)
    assert Session(client=True).id != pair.client.id


async def test_both_ends_open_streams_at_once(pair: Pair) -> None:
    near = [pair.client.open_stream() for _ in range(5)]
    far = [pair.server.open_stream() for _ in range(5)]
    for stream in near + far:
        stream.write(str(stream.id).encode())
    for queue, opened in ((pair.at_server, near), (pair.at_client, far)):
        for stream in opened:
            got = await queue.get()
            assert got.id == stream.id
            assert await got.read() == str(stream.id).encode()
    assert pair.client.streams == pair.server.streams == 10


async def test_a_session_that_takes_no_streams_resets_them(pair: Pair) -> None:
    pair.server.on_stream = None
    near = pair.client.open_stream()
    with pytest.raises(ConnectionResetError):
        await near.read()
    assert pair.client.streams == pair.server.streams == 0


async def test_streams_can_be_opened_and_written_before_there_is_a_link() -> None:
    pair = Pair()
    near = pair.client.open_stream()
    near.write(b"early")
    await turns()
    assert not pair.client.connected
    pair.link()
    assert pair.client.connected
    far = await pair.at_server.get()
    assert await far.read() == b"early"


async def test_a_lost_link_is_told_and_the_streams_wait_for_another(pair: Pair) -> None:
    near, far = await pair.streams()
    told: list[Exception | None] = []
    pair.client.on_link_lost = told.append
    pair.wire.cut()
    assert [str(error) for error in told] == ["the link was cut"]
    assert pair.client.last_error == "the link was cut"
    assert not pair.client.connected
    near.write(b"written without a link")
    near.write_eof()
    await turns()
    pair.link()
    assert pair.client.last_error is None
    assert await read_all(far) == b"written without a link"


async def test_a_new_link_takes_the_place_of_the_old_one(pair: Pair) -> None:
    near, far = await pair.streams()
    old = pair.wire
    pair.link()
    assert old.a.closed
    assert old.b.closed
    near.write(b"x")
    assert await far.read() == b"x"
    pair.client.link_data(old.a, b"noise on the old link is not heard")
    pair.client.link_paused(old.a)
    pair.client.link_lost(old.a, None)
    assert pair.client.connected
    assert not pair.client.blocked


async def test_a_session_without_a_link_ends_after_its_time() -> None:
    session = Session(client=True, resume_timeout=0.05)
    stream = session.open_stream()
    await asyncio.wait_for(session.closed, 5)
    assert "the session was given up" in str(session.last_error)
    with pytest.raises(SessionLost):
        await stream.read()
    with pytest.raises(SessionLost, match="given up"):
        session.open_stream()


async def test_the_time_runs_only_while_there_is_no_link(pair: Pair) -> None:
    pair.server.resume_timeout = 0.05
    await asyncio.sleep(0.1)
    assert not pair.server.closed.done()
    pair.wire.cut()
    pair.link()
    await asyncio.sleep(0.1)
    assert not pair.server.closed.done()
    pair.wire.cut()
    await asyncio.wait_for(pair.server.closed, 5)


async def test_a_session_that_has_ended_takes_no_link(pair: Pair) -> None:
    pair.client.close("given up")
    link = Wire().a
    with pytest.raises(SessionLost, match="given up"):
        pair.client.attach(link, 0)
    assert not pair.client.connected


async def test_what_was_received_is_acknowledged_within_200_ms(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(b"x" * 1000)
    await far.readexactly(1000)
    assert pair.client.resume.unacknowledged >= 1000
    await until(lambda: not pair.client.resume.unacknowledged, 2)


async def test_a_full_resend_buffer_blocks_and_an_acknowledgement_unblocks(pair: Pair) -> None:
    near, far = await pair.streams()
    await until(lambda: not pair.client.resume.unacknowledged)
    pair.client.resume.limit = 100_000
    pair.wire.cut()
    for _ in range(20):
        near.write(bytes(10_000))
        await turns(2)
    assert pair.client.blocked
    assert 100_000 <= pair.client.resume.unacknowledged < 120_000
    assert near.get_write_buffer_size() >= 80_000
    near.write_eof()
    pair.link()
    assert await read_all(far) == bytes(200_000)
    await until(lambda: not pair.client.blocked)


async def test_a_link_that_is_behind_blocks_every_stream(pair: Pair) -> None:
    near, far = await pair.streams()
    pair.client.link_paused(pair.wire.a)
    near.write(b"x" * 1000)
    other = pair.client.open_stream()
    other.write(b"y" * 1000)
    await turns()
    assert near.get_write_buffer_size() == other.get_write_buffer_size() == 1000
    pair.client.link_resumed(pair.wire.a)
    assert await far.readexactly(1000) == b"x" * 1000
    assert await (await pair.at_server.get()).readexactly(1000) == b"y" * 1000


async def test_a_link_that_was_behind_when_it_broke_does_not_block_the_next(pair: Pair) -> None:
    near, far = await pair.streams()
    pair.client.link_paused(pair.wire.a)
    near.write(b"x")
    pair.wire.cut()
    pair.link()
    assert await far.read() == b"x"


async def test_writes_of_one_turn_go_out_as_one(pair: Pair) -> None:
    streams = [await pair.streams() for _ in range(10)]
    await turns()
    before, calls = pair.wire.a.written, []
    write = pair.wire.a.write
    pair.wire.a.write = lambda data: (calls.append(len(data)), write(data))[0]  # type: ignore[method-assign, assignment]
    for near, _ in streams:
        near.write(b"z")
    await turns()
    assert calls == [pair.wire.a.written - before]


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n", FRAME.pack(0, 12) + b"\1" + bytes(11)])
async def test_a_peer_that_breaks_the_protocol_ends_the_session(pair: Pair, noise: bytes) -> None:
    near, _ = await pair.streams()
    pair.wire.b.write(noise)
    with pytest.raises(SessionLost, match="not known"):
        await near.read()
    assert pair.client.closed.done()
    await until(lambda: not pair.server.connected)


async def test_a_protocol_that_fails_costs_its_own_stream_only(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    near, far = await pair.streams()
    other, other_far = await pair.streams()
    far.set_protocol(Failing())
    near.write(b"x")
    other.write(b"y" * 1000)
    other.write_eof()
    with caplog.at_level(logging.ERROR):
        assert await read_all(other_far) == b"y" * 1000
    with pytest.raises(ConnectionResetError):
        await near.read()
    assert pair.server.connected
    assert "a bug" in caplog.text


async def test_no_stream_comes_after_the_session_was_closed(pair: Pair) -> None:
    taken: list[Stream] = []

    def close_at_the_first(stream: Stream) -> None:
        taken.append(stream)
        pair.server.close()

    pair.server.on_stream = close_at_the_first
    for _ in range(3):
        pair.client.open_stream()
    await turns()
    assert len(taken) == 1
    assert pair.server.streams == 0


async def test_the_peer_that_goes_away_is_noted(pair: Pair) -> None:
    pair.server.mux.go_away()
    pair.server.flush_soon()
    await until(lambda: pair.client.last_error)
    assert pair.client.last_error == "the peer goes away (code 0)"


async def test_closing_twice_keeps_the_first_reason(pair: Pair) -> None:
    pair.client.close("first")
    pair.client.close("second")
    assert pair.client.last_error == "first"


async def test_many_megabytes_go_both_ways_on_many_streams(pair: Pair) -> None:
    data = random.Random(3).randbytes(2 << 20)

    async def echo() -> None:
        while True:
            stream = await pair.at_server.get()
            tasks.append(asyncio.create_task(answer(stream)))

    async def answer(stream: Stream) -> None:
        while part := await stream.read():
            stream.write(part)
            await stream.drain()
        stream.write_eof()

    async def ask() -> bytes:
        stream = pair.client.open_stream()
        stream.write(data)
        stream.write_eof()
        return await read_all(stream)

    tasks = [asyncio.create_task(echo())]
    answers = await asyncio.gather(*(ask() for _ in range(4)))
    assert all(answer == data for answer in answers)
    await asyncio.gather(*tasks[1:])
    await finish(tasks[0])
    await turns()
    assert pair.client.streams == pair.server.streams == 0
    assert len(data) > 2 * INITIAL_WINDOW


async def test_sessions_that_know_different_amounts_cannot_be_joined(pair: Pair) -> None:
    _near, _ = await pair.streams()
    await until(lambda: not pair.client.resume.unacknowledged)
    pair.wire.cut()
    fresh = Session(client=False, session_id=pair.client.id)
    with pytest.raises(session_module.ResumeError, match="cannot go on"):
        join(pair.client, fresh)
    fresh.close()
