from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from telewire.mux import INITIAL_WINDOW
from telewire.session import SessionLost
from telewire.stream import HIGH_WATER, Stream
from tests.telewire.conftest import Pair, read_all, turns, until


class Recorder(asyncio.Protocol):
    """Remembers what a transport tells it."""

    def __init__(self, *, keep_open: bool = True) -> None:
        self.data = b""
        self.calls: list[str] = []
        self.errors: list[Exception | None] = []
        self._keep_open = keep_open

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.errors.append(exc)


async def test_bytes_come_as_they_were_written(pair: Pair) -> None:
    near, far = await pair.streams()
    near.writelines([b"hello ", bytearray(b"wide "), memoryview(b"world")])
    assert await far.readexactly(6) == b"hello "
    assert await far.read(4) == b"wide"
    assert await far.read() == b" world"
    far.write(b"and back")
    assert await near.readexactly(8) == b"and back"


async def test_the_server_may_open_streams_too(pair: Pair) -> None:
    near = pair.server.open_stream()
    near.write(b"inbound")
    far = await pair.at_client.get()
    assert await far.read() == b"inbound"
    assert (near.id % 2, far.id) == (0, near.id)


async def test_an_end_closes_one_half_only(pair: Pair) -> None:
    near, far = await pair.streams()
    assert near.can_write_eof()
    near.write(b"all")
    near.write_eof()
    near.write(b"lost")
    assert await read_all(far) == b"all"
    far.write(b"answer")
    far.write_eof()
    assert await read_all(near) == b"answer"
    await turns()
    assert pair.client.streams == pair.server.streams == 0


async def test_an_early_end_says_how_much_there_was(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(b"abc")
    near.close()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await far.readexactly(5)
    assert (caught.value.partial, caught.value.expected) == (b"abc", 5)


async def test_an_abort_is_a_reset_at_the_peer_after_what_came_before(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(b"abc")
    near.abort()
    await turns()
    assert await far.read() == b"abc"
    with pytest.raises(ConnectionResetError, match="reset"):
        await far.read()
    with pytest.raises(ConnectionResetError):
        await far.drain()
    with pytest.raises(ConnectionResetError, match="closed"):
        await near.read()
    assert near.is_closing()
    assert far.is_closing()
    assert pair.client.streams == pair.server.streams == 0


async def test_a_writer_waits_while_the_peer_reads_nothing(pair: Pair) -> None:
    near, far = await pair.streams()
    data = random.Random(1).randbytes(4 * INITIAL_WINDOW)
    near.write(data)
    await turns()
    assert near.get_write_buffer_size() == len(data) - INITIAL_WINDOW
    near.write_eof()
    drained = asyncio.create_task(near.drain())
    await turns()
    assert not drained.done()
    assert await read_all(far) == data
    await drained
    assert near.get_write_buffer_size() == 0


async def test_all_who_wait_for_a_drain_are_woken(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(bytes(3 * INITIAL_WINDOW))
    drains = [asyncio.create_task(near.drain()) for _ in range(3)]
    await turns()
    near.write_eof()
    await read_all(far)
    async with asyncio.timeout(5):
        await asyncio.gather(*drains)


async def test_a_drain_ends_with_an_error_when_the_stream_is_lost(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(bytes(3 * INITIAL_WINDOW))
    drained = asyncio.create_task(near.drain())
    await turns()
    far.abort()
    with pytest.raises(ConnectionResetError):
        await drained
    near.write(b"for nobody")
    assert near.get_write_buffer_size() == 0


async def test_a_slow_reader_holds_up_no_other_stream(pair: Pair) -> None:
    slow, _ = await pair.streams()
    fast, far = await pair.streams()
    slow.write(bytes(2 * INITIAL_WINDOW))
    fast.write(bytes(5 * INITIAL_WINDOW))
    fast.write_eof()
    assert len(await read_all(far)) == 5 * INITIAL_WINDOW
    assert slow.get_write_buffer_size() == INITIAL_WINDOW


async def test_a_protocol_gets_what_came_before_it_was_set(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(b"early ")
    await turns()
    with pytest.raises(RuntimeError, match="no protocol"):
        far.get_protocol()
    recorder = Recorder()
    far.set_protocol(recorder)
    assert far.get_protocol() is recorder
    near.write(b"late")
    near.write_eof()
    await until(lambda: recorder.calls == ["eof"])
    assert recorder.data == b"early late"
    far.close()
    await until(lambda: recorder.errors == [None])


async def test_a_protocol_that_does_not_keep_the_stream_open_ends_it(pair: Pair) -> None:
    near, far = await pair.streams()
    recorder = Recorder(keep_open=False)
    far.set_protocol(recorder)
    near.close()
    await until(lambda: recorder.calls == ["eof", "lost"])
    await turns()
    assert pair.client.streams == pair.server.streams == 0


@pytest.mark.parametrize("keep_open", [True, False])
async def test_the_loss_is_told_once_to_a_protocol_that_comes_after_both_ends(pair: Pair, keep_open: bool) -> None:
    near, far = await pair.streams()
    near.write(b"abc")
    near.write_eof()
    far.write_eof()
    await turns()
    recorder = Recorder(keep_open=keep_open)
    far.set_protocol(recorder)
    await turns()
    assert (recorder.data, recorder.calls, recorder.errors) == (b"abc", ["eof", "lost"], [None])


async def test_a_protocol_that_comes_after_a_reset_is_told(pair: Pair) -> None:
    near, far = await pair.streams()
    near.abort()
    await turns()
    recorder = Recorder()
    far.set_protocol(recorder)
    await turns()
    assert recorder.calls == ["lost"]
    assert isinstance(recorder.errors[0], ConnectionResetError)


async def test_a_protocol_is_paused_above_the_high_mark_and_resumed_below_the_low(pair: Pair) -> None:
    near, far = await pair.streams()
    recorder = Recorder()
    near.set_protocol(recorder)
    near.set_write_buffer_limits(high=1000)
    assert near.get_write_buffer_limits() == (250, 1000)
    near.write(bytes(INITIAL_WINDOW + 1000))
    assert recorder.calls == []
    near.write(b"x")
    assert recorder.calls == ["pause"]
    await far.readexactly(INITIAL_WINDOW)
    await until(lambda: recorder.calls == ["pause", "resume"])
    near.set_write_buffer_limits()
    assert near.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)


async def test_a_protocol_that_comes_to_a_full_stream_is_paused(pair: Pair) -> None:
    near, _ = await pair.streams()
    near.write(bytes(2 * INITIAL_WINDOW + 1))
    recorder = Recorder()
    near.set_protocol(recorder)
    assert recorder.calls == ["pause"]


@pytest.mark.parametrize("with_protocol", [True, False])
async def test_a_paused_stream_keeps_what_comes_and_the_window(pair: Pair, with_protocol: bool) -> None:
    near, far = await pair.streams()
    recorder = Recorder()
    if with_protocol:
        far.set_protocol(recorder)
    far.pause_reading()
    assert not far.is_reading()
    near.write(bytes(2 * INITIAL_WINDOW))
    near.write_eof()
    await turns()
    assert (recorder.data, recorder.calls) == (b"", [])
    assert near.get_write_buffer_size() == INITIAL_WINDOW
    far.resume_reading()
    assert far.is_reading()
    if not with_protocol:
        far.set_protocol(recorder)
    await until(lambda: recorder.calls == ["eof"])
    assert len(recorder.data) == 2 * INITIAL_WINDOW


async def test_a_closed_stream_throws_away_what_comes(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(bytes(INITIAL_WINDOW))
    await turns()
    far.close()
    far.close()
    near.write(bytes(3 * INITIAL_WINDOW))
    near.write_eof()
    await until(lambda: not pair.client.streams and not pair.server.streams)
    assert near.get_write_buffer_size() == 0


async def test_closing_while_data_is_delivered_gives_no_credit_twice(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.server.mux, "_max_window", INITIAL_WINDOW)

    class Closing(Recorder):
        def data_received(self, data: bytes) -> None:
            cast("Stream", self.stream).close()

    near, far = await pair.streams()
    near.write(bytes(INITIAL_WINDOW * 3 // 4))
    await turns()
    closing = Closing()
    closing.stream = far  # type: ignore[attr-defined]
    far.set_protocol(closing)
    await turns()
    near.write(bytes(INITIAL_WINDOW // 4))
    await turns()
    assert pair.client.mux.send_window(near.id) <= INITIAL_WINDOW


async def test_the_sessions_end_is_the_loss_of_its_streams(pair: Pair) -> None:
    near, far = await pair.streams()
    recorder = Recorder()
    near.set_protocol(recorder)
    reading = asyncio.create_task(far.read())
    await turns()
    pair.client.close("enough")
    pair.server.close()
    await until(lambda: recorder.calls == ["lost"])
    assert isinstance(recorder.errors[0], SessionLost)
    assert str(recorder.errors[0]) == "enough"
    with pytest.raises(SessionLost):
        await reading
    with pytest.raises(SessionLost, match="enough"):
        pair.client.open_stream()


async def test_a_stream_has_no_socket(pair: Pair) -> None:
    near, _ = await pair.streams()
    assert near.get_extra_info("socket") is None
    assert near.get_extra_info("peername", "nobody") == "nobody"
