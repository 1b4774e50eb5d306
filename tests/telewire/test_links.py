from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire.errors import Forbidden
from telewire.handshake import SessionServer, SessionUnknown
from telewire.session import Session, finish
from telewire.stream import Stream
from tests.telewire.conftest import Wire, dial, read_all, turns, until


def answering(
    answer: Callable[[Stream], Awaitable[Any]], tasks: set[asyncio.Task[Any]], **options: Any
) -> SessionServer:
    """Return a server whose sessions serve each stream with ``answer``."""

    def on_session(session: Session) -> None:
        def on_stream(stream: Stream) -> None:
            tasks.add(asyncio.get_running_loop().create_task(answer(stream)))  # type: ignore[arg-type]

        session.on_stream = on_stream

    return SessionServer(on_session, lambda: {"version": "test"}, **options)


async def echo(stream: Stream) -> None:
    while part := await stream.read():
        stream.write(part)
        await stream.drain()
    stream.write_eof()


async def over_breaking_links(session: Session, server: SessionServer, budgets: list[int], sizes: list[int]) -> None:
    """Dial again and again, each link good for so many bytes, the last one for all."""
    for budget in budgets:
        wire = Wire(budget, sizes)
        ready = dial(session, server, wire)
        await asyncio.wait([wire.broken], timeout=0.05)
        wire.cut()
        assert not ready.done() or ready.exception() is None
        await turns(2)
    await dial(session, server, Wire(None, sizes))


@settings(deadline=None, max_examples=25)
@given(
    budgets=st.lists(st.integers(1, 400) | st.integers(400, 60_000), max_size=12),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    lengths=st.lists(st.integers(0, 120_000), min_size=1, max_size=4),
)
async def test_streams_survive_links_that_break_at_any_byte(
    budgets: list[int], sizes: list[int], lengths: list[int]
) -> None:
    tasks: set[asyncio.Task[Any]] = set()
    server = answering(echo, tasks)
    session = Session(client=True)
    questions = [random.Random(length).randbytes(length) for length in lengths]

    async def ask(question: bytes) -> bytes:
        stream = session.open_stream()
        stream.write(question)
        stream.write_eof()
        return await read_all(stream)

    asking = asyncio.gather(*map(ask, questions))
    async with asyncio.timeout(30):
        await over_breaking_links(session, server, budgets, sizes)
        assert await asking == questions
        await asyncio.gather(*tasks)
    assert len(server.sessions) == 1
    await turns()
    assert session.streams == 0
    session.close()
    server.close()
    await turns(2)


async def test_streams_that_the_agent_opens_survive_too() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    server = answering(echo, tasks)
    got: list[bytes] = []

    async def take(stream: Stream) -> None:
        got.append(await read_all(stream))

    def on_stream(stream: Stream) -> None:
        tasks.add(asyncio.create_task(take(stream)))

    session = Session(client=True, on_stream=on_stream)
    wire = Wire()
    await dial(session, server, wire)
    (far,) = server.sessions.values()
    stream = far.open_stream()
    for _ in range(50):
        stream.write(bytes(1000))
        await turns(1)
        wire.cut()
        wire = Wire(500)
        dial(session, server, wire)
        await turns(4)
    stream.write_eof()
    wire.cut()
    await dial(session, server, Wire())
    await until(lambda: got == [bytes(50_000)])
    session.close()
    server.close()
    await turns(2)


async def test_a_reset_that_the_broken_link_swallowed_comes_over_the_next() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    ended: list[str] = []

    async def wait(stream: Stream) -> None:
        try:
            await read_all(stream)
        except ConnectionResetError:
            ended.append("reset")

    server, session = answering(wait, tasks), Session(client=True)
    wire = Wire()
    await dial(session, server, wire)
    stream = session.open_stream()
    stream.write(b"x")
    await turns()
    wire.cut()
    stream.abort()
    await dial(session, server, Wire())
    await until(lambda: ended == ["reset"])
    session.close()
    server.close()
    await turns(2)


async def test_the_first_links_token_becomes_the_servers() -> None:
    server = SessionServer(lambda _session: None, dict)
    first, second = Session(client=True), Session(client=True)
    await dial(first, server, Wire(), "first")
    with pytest.raises(Forbidden, match="wrong token: another client was here first"):
        await dial(second, server, Wire(), "second")
    assert not second.connected
    await dial(second, server, Wire(), "first")
    assert set(server.sessions) == {first.id, second.id}
    assert server.linked
    first.close()
    second.close()
    server.close()
    assert not server.linked


async def test_a_session_that_was_given_up_is_unknown_afterwards() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    server, session = answering(echo, tasks, resume_timeout=0.05), Session(client=True)
    wire = Wire()
    await dial(session, server, wire)
    stream = session.open_stream()
    stream.write(b"x")
    assert await stream.read() == b"x"
    wire.cut()
    await until(lambda: not server.sessions)
    with pytest.raises(SessionUnknown):
        await dial(session, server, Wire())
    with pytest.raises(ConnectionResetError):
        await next(iter(tasks))
    session.close()
    await turns(2)


async def test_an_agent_that_was_restarted_takes_a_session_of_which_nothing_had_arrived() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    session = Session(client=True)
    stream = session.open_stream()
    stream.write(b"x")
    wire = Wire(10)
    dial(session, answering(echo, tasks), wire)
    await wire.broken
    server = answering(echo, tasks)
    await dial(session, server, Wire())
    assert await stream.read() == b"x"
    stream.abort()
    for task in tasks:
        await finish(task)
    session.close()
    server.close()
    await turns(2)


async def test_a_second_link_of_a_session_replaces_the_first() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    server, session = answering(echo, tasks), Session(client=True)
    first = Wire()
    await dial(session, server, first)
    stream = session.open_stream()
    stream.write(b"a")
    assert await stream.read() == b"a"
    await dial(session, server, Wire())
    assert first.b.closed
    stream.write(b"b")
    stream.write_eof()
    assert await read_all(stream) == b"b"
    assert len(server.sessions) == 1
    await asyncio.gather(*tasks)
    session.close()
    server.close()
    await turns(2)
