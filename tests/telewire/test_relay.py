from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator

import pytest

from telewire import relay
from telewire.mux import INITIAL_WINDOW
from telewire.relay import Waiting
from telewire.stream import Stream
from tests.telewire.conftest import Pair, read_all, turns, until


class Ends:
    """Connections over loopback: this side for the relay, the other side as reader and writer."""

    def __init__(self) -> None:
        self._server: asyncio.Server
        self._accepted: asyncio.Queue[tuple[asyncio.Transport, Waiting]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._transports: list[asyncio.Transport] = []

    async def start(self) -> None:
        def accept() -> Waiting:
            waiting = Waiting()
            made = waiting.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                made(transport)
                assert waiting.transport is not None
                self._accepted.put_nowait((waiting.transport, waiting))

            waiting.connection_made = connection_made  # type: ignore[method-assign]
            return waiting

        self._server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)

    async def another(self) -> tuple[asyncio.Transport, Waiting, asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        transport, waiting = await self._accepted.get()
        self._writers.append(writer)
        self._transports.append(transport)
        return transport, waiting, reader, writer

    async def close(self) -> None:
        self._server.close()
        for transport in [*self._transports, *(writer.transport for writer in self._writers)]:
            transport.abort()
        await asyncio.sleep(0.01)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    await made.start()
    yield made
    await made.close()


class Joined:
    """A socket that is joined to a stream: what its user and the stream's far end hold."""

    def __init__(self, pair: Pair, ends: Ends) -> None:
        self.pair, self.ends = pair, ends

    async def start(self) -> None:
        self.transport, _, self.reader, self.writer = await self.ends.another()
        self.near, self.far = await self.pair.streams()
        self.done = relay.join(self.transport, self.near)


@pytest.fixture
async def joined(pair: Pair, ends: Ends) -> Joined:
    made = Joined(pair, ends)
    await made.start()
    return made


async def read_slowly(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while part := await reader.read(100_000):
        parts.append(part)
        await asyncio.sleep(0)
    return b"".join(parts)


async def test_bytes_go_both_ways_and_all_is_over_when_both_have_ended(joined: Joined) -> None:
    joined.writer.write(b"question")
    joined.writer.write_eof()
    assert await read_all(joined.far) == b"question"
    assert not joined.done.done()
    joined.far.write(b"answer")
    joined.far.write_eof()
    assert await joined.reader.read() == b"answer"
    await asyncio.wait_for(joined.done, 5)
    assert joined.transport.is_closing()
    assert joined.pair.client.streams == joined.pair.server.streams == 0


async def test_an_end_at_the_streams_side_leaves_the_other_direction(joined: Joined) -> None:
    joined.far.write_eof()
    assert await joined.reader.read() == b""
    joined.writer.write(b"more")
    assert await joined.far.readexactly(4) == b"more"
    joined.writer.write_eof()
    await asyncio.wait_for(joined.done, 5)


async def test_a_reset_of_the_stream_is_a_reset_of_the_socket(joined: Joined) -> None:
    joined.far.abort()
    with pytest.raises(ConnectionResetError):
        await joined.reader.read()
    await asyncio.wait_for(joined.done, 5)


async def test_a_reset_of_the_socket_is_a_reset_of_the_stream(joined: Joined) -> None:
    relay.reset(joined.writer.transport)
    with pytest.raises(ConnectionResetError):
        await read_all(joined.far)
    await asyncio.wait_for(joined.done, 5)


async def test_the_end_of_the_session_is_a_reset_of_the_socket(joined: Joined) -> None:
    joined.pair.client.close()
    with pytest.raises(ConnectionResetError):
        await joined.reader.read()
    await asyncio.wait_for(joined.done, 5)


async def test_what_came_before_the_join_is_not_lost(pair: Pair, ends: Ends) -> None:
    transport, _, reader, writer = await ends.another()
    near, far = await pair.streams()
    writer.write(b"from the socket")
    writer.write_eof()
    far.write(b"from the stream")
    far.write_eof()
    await asyncio.sleep(0.01)
    done = relay.join(near, transport)
    assert await read_all(far) == b"from the socket"
    assert await reader.read() == b"from the stream"
    await asyncio.wait_for(done, 5)


async def test_a_stream_that_was_reset_before_the_join_resets_the_socket(pair: Pair, ends: Ends) -> None:
    transport, _, reader, _ = await ends.another()
    near, far = await pair.streams()
    far.abort()
    await turns()
    done = relay.join(transport, near)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await asyncio.wait_for(done, 5)


async def test_megabytes_go_both_ways_at_once(joined: Joined) -> None:
    up, down = random.Random(1).randbytes(3 << 20), random.Random(2).randbytes(3 << 20)
    joined.writer.write(up)
    joined.writer.write_eof()
    joined.far.write(down)
    joined.far.write_eof()
    got = await asyncio.gather(read_all(joined.far), read_slowly(joined.reader))
    assert got == [up, down]
    await asyncio.wait_for(joined.done, 5)


def small_buffers(*transports: asyncio.BaseTransport) -> None:
    for transport in transports:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 16384)


async def at_rest(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes a transport keeps when that does not change any more."""
    left = -1
    while left != (left := transport.get_write_buffer_size()):  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.1)
    return left


async def test_a_socket_that_is_not_read_stops_the_streams_writer(joined: Joined) -> None:
    small_buffers(joined.transport, joined.writer.transport)
    data = bytes(40 << 20)
    joined.far.write(data)
    joined.far.write_eof()
    assert await at_rest(joined.far) > len(data) // 2
    assert joined.transport.get_write_buffer_size() < 1 << 20
    assert len(await read_slowly(joined.reader)) == len(data)


async def test_a_stream_that_is_not_read_stops_the_sockets_writer(joined: Joined) -> None:
    small_buffers(joined.transport, joined.writer.transport)
    data = bytes(20 << 20)
    joined.writer.write(data)
    assert await at_rest(joined.writer.transport) > len(data) // 2
    assert joined.near.get_write_buffer_size() < 1 << 20
    joined.writer.write_eof()
    assert len(await read_all(joined.far)) == len(data)


async def test_a_stream_that_is_full_when_it_is_joined_does_not_read_the_socket(pair: Pair, ends: Ends) -> None:
    transport, _, _, writer = await ends.another()
    near, far = await pair.streams()
    near.write(bytes(INITIAL_WINDOW * 3))
    relay.join(transport, near)
    assert not transport.is_reading()
    writer.write(b"more")
    await far.readexactly(INITIAL_WINDOW * 3)
    assert await far.readexactly(4) == b"more"


@pytest.mark.parametrize("end", [True, False])
async def test_two_sockets_are_joined_until_both_have_ended(ends: Ends, end: bool) -> None:
    a, _, reader_a, writer_a = await ends.another()
    b, _, reader_b, writer_b = await ends.another()
    done = relay.join(a, b)
    writer_a.write(b"to b")
    assert await reader_b.readexactly(4) == b"to b"
    writer_b.write(b"to a")
    if not end:
        assert await reader_a.readexactly(4) == b"to a"
        relay.reset(writer_a.transport)
        with pytest.raises(ConnectionResetError):
            await reader_b.read()
    else:
        writer_a.write_eof()
        assert await reader_b.read() == b""
        writer_b.write_eof()
        assert await reader_a.read() == b"to a"
    await asyncio.wait_for(done, 5)


async def test_two_streams_are_joined_until_both_have_ended(pair: Pair) -> None:
    left, far_left = await pair.streams()
    right, far_right = await pair.streams()
    far_left.write(bytes(INITIAL_WINDOW * 2))
    far_left.write_eof()
    await turns()
    done = relay.join(left, right)
    assert await read_all(far_right) == bytes(INITIAL_WINDOW * 2)
    far_right.write(b"back")
    far_right.write_eof()
    assert await read_all(far_left) == b"back"
    await asyncio.wait_for(done, 5)
    assert pair.client.streams == pair.server.streams == 0


async def test_a_socket_that_waits_reads_nothing_and_remembers_its_loss(ends: Ends) -> None:
    transport, waiting, _, writer = await ends.another()
    assert waiting.transport is transport
    assert not transport.is_reading()
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.write(b"x")
    await asyncio.sleep(0.01)
    assert not waiting.lost
    relay.reset(transport)
    await until(lambda: waiting.lost)


async def test_a_reset_works_on_streams_and_on_sockets_that_are_gone(pair: Pair, ends: Ends) -> None:
    near, far = await pair.streams()
    relay.reset(near)
    with pytest.raises(ConnectionResetError):
        await far.read()
    transport, waiting, _, _ = await ends.another()
    transport.abort()
    await until(lambda: waiting.lost)
    relay.reset(transport)
    assert isinstance(near, Stream)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_comes_before_the_join_is_not_lost(loop: str) -> None:
    async def work() -> bytes:
        running = asyncio.get_running_loop()
        accepted: asyncio.Queue[Waiting] = asyncio.Queue()

        def accept() -> Waiting:
            waiting = Waiting()
            accepted.put_nowait(waiting)
            return waiting

        server = await running.create_server(accept, "127.0.0.1", 0)
        here, there = socket.socketpair()
        transport, _ = await running.create_connection(Waiting, sock=here)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.sendall(b"first ")
        waiting = await accepted.get()
        await asyncio.sleep(0.05)
        client.sendall(b"second")
        await asyncio.sleep(0.05)
        assert waiting.transport is not None
        done = relay.join(waiting.transport, transport)
        client.close()
        reader, writer = await asyncio.open_connection(sock=there)
        got = await reader.read()
        writer.close()
        await done
        server.close()
        return got

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(work()) == b"first second"
