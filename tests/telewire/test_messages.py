from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire import messages
from telewire.errors import TeleError
from telewire.messages import (
    LENGTH,
    AgentError,
    DatagramReader,
    Missing,
    NotPermitted,
    Refused,
    TimedOut,
    Unreachable,
    error_for,
    pack_datagram,
    read_message,
    refuse,
    request,
    send_message,
)
from telewire.session import SessionLost
from telewire.stream import Stream
from tests.telewire.conftest import Pair, read_all, turns


@pytest.fixture
async def ends(pair: Pair) -> tuple[Stream, Stream]:
    return await pair.streams()


async def test_a_message_on_the_wire(ends: tuple[Stream, Stream]) -> None:
    send_message(ends[0], {"op": "dial", "port": 80})
    assert await ends[1].read() == b'\0\0\0\x17{"op":"dial","port":80}'


async def test_messages_come_back_and_leave_what_follows(ends: tuple[Stream, Stream]) -> None:
    near, far = ends
    send_message(near, {"text": "ünï\n"})
    send_message(near, {})
    near.write(b"raw")
    assert await read_message(far) == {"text": "ünï\n"}
    assert await read_message(far) == {}
    assert await far.read() == b"raw"


async def test_a_message_may_come_byte_by_byte(ends: tuple[Stream, Stream]) -> None:
    near, far = ends
    reading = asyncio.create_task(read_message(far))
    for byte in LENGTH.pack(7) + b'{"a":1}':
        near.write(bytes([byte]))
        await turns(5)
    assert await reading == {"a": 1}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"no JSON", "no JSON"),
        (b"\xff\xff", "no JSON"),
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
    ],
)
async def test_what_is_no_message_is_an_error(ends: tuple[Stream, Stream], body: bytes, complaint: str) -> None:
    ends[0].write(LENGTH.pack(len(body)) + body)
    with pytest.raises(TeleError, match=complaint):
        await read_message(ends[1])


async def test_a_message_that_is_too_long_is_not_waited_for(ends: tuple[Stream, Stream]) -> None:
    ends[0].write(b"HTTP")
    with pytest.raises(TeleError, match="too long"):
        await read_message(ends[1])


async def test_no_message_in_time_is_an_error(ends: tuple[Stream, Stream]) -> None:
    with pytest.raises(TimedOut, match=r"within 0\.01 s"):
        await read_message(ends[1], 0.01)


async def test_an_early_end_and_a_reset_are_told_apart(pair: Pair) -> None:
    near, far = await pair.streams()
    near.write(b"\0\0")
    near.close()
    with pytest.raises(asyncio.IncompleteReadError):
        await read_message(far)
    near, far = await pair.streams()
    near.abort()
    with pytest.raises(ConnectionResetError):
        await read_message(far)


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("failed", AgentError, "unavailable"),
        ("refused", Refused, "unavailable"),
        ("unreachable", Unreachable, "unavailable"),
        ("timeout", TimedOut, "unavailable"),
        ("forbidden", NotPermitted, "forbidden"),
        ("not-found", Missing, "not-found"),
        ("of a later version", AgentError, "unavailable"),
    ],
)
def test_each_kind_of_no_is_an_error_of_its_own(kind: str, error: type[AgentError], code: str) -> None:
    made = error_for({"ok": False, "error": kind, "text": "because"})
    assert (type(made), str(made), made.code) == (error, "because", code)


def test_a_no_without_a_text_still_says_something() -> None:
    assert str(error_for({"error": "refused"})) == "refused"
    assert str(error_for({})) == "failed"


async def answering(pair: Pair, **answer: Any) -> Stream:
    """Answer the next request at the server's end; return its stream."""
    stream = await pair.at_server.get()
    await read_message(stream)
    send_message(stream, answer)
    return stream


async def test_a_request_returns_the_stream_and_the_answer(pair: Pair) -> None:
    serving = asyncio.create_task(answering(pair, ok=True, rtt_ms=3))
    stream, answer = await request(pair.client, {"op": "ping"})
    assert answer == {"ok": True, "rtt_ms": 3}
    stream.write(b"goes on")
    assert await (await serving).read() == b"goes on"


async def test_a_request_that_is_refused_leaves_no_stream(pair: Pair) -> None:
    asking = asyncio.create_task(request(pair.client, {"op": "dial"}))
    stream = await pair.at_server.get()
    refuse(stream, "refused", "10.0.0.1:80 refuses connections")
    with pytest.raises(Refused, match=r"10\.0\.0\.1:80 refuses"):
        await asking
    await turns()
    assert pair.client.streams == pair.server.streams == 0


async def test_a_request_that_is_not_answered_leaves_no_stream(pair: Pair) -> None:
    with pytest.raises(TimedOut):
        await request(pair.client, {"op": "dial"}, 0.01)
    assert pair.client.streams == 0
    asking = asyncio.create_task(request(pair.client, {"op": "dial"}))
    await turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert pair.client.streams == 0


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_request_whose_stream_ends_is_an_error_of_the_agent(pair: Pair, how: str) -> None:
    asking = asyncio.create_task(request(pair.client, {"op": "dial"}))
    getattr(await pair.at_server.get(), how)()
    with pytest.raises(AgentError, match="went away"):
        await asking
    assert pair.client.streams == 0


async def test_a_request_on_an_ended_session_says_so(pair: Pair) -> None:
    asking = asyncio.create_task(request(pair.client, {"op": "dial"}))
    await turns()
    pair.client.close("the pod is gone")
    with pytest.raises(AgentError, match="the pod is gone"):
        await asking
    with pytest.raises(SessionLost, match="the pod is gone"):
        await request(pair.client, {"op": "dial"})


async def test_a_refusal_is_a_message_and_the_end(ends: tuple[Stream, Stream]) -> None:
    refuse(ends[0], "not-found", "no such name")
    assert await read_message(ends[1]) == {"ok": False, "error": "not-found", "text": "no such name"}
    assert await read_all(ends[1]) == b""


async def test_a_message_as_long_as_may_be_comes_through(
    ends: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MESSAGE_LIMIT", 1000)
    send_message(ends[0], {"x": "y" * 992})
    assert len((await read_message(ends[1]))["x"]) == 992
    send_message(ends[0], {"x": "y" * 993})
    with pytest.raises(TeleError, match="1001 bytes is too long"):
        await read_message(ends[1])


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=60) | st.just(bytes(65535)), max_size=8), st.lists(st.integers(1, 50_000), min_size=1)
)
def test_datagrams_come_back_however_they_are_cut(datagrams: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(map(pack_datagram, datagrams))
    reader, found, position, turn = DatagramReader(), [], 0, 0
    while position < len(wire):
        size = [*cuts, 65536][turn % (len(cuts) + 1)]  # so that single bytes do not take for ever
        found += reader.feed(wire[position : position + size])
        position, turn = position + size, turn + 1
    assert found == datagrams


def test_a_datagram_on_the_wire() -> None:
    assert pack_datagram(b"abc") == b"\0\3abc"
    assert DatagramReader().feed(b"\0\0\0\1x\0") == [b"", b"x"]
