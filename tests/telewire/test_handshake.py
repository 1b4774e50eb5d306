from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from telewire import handshake
from telewire.errors import Conflict, Forbidden, TeleError, Unavailable
from telewire.handshake import SessionServer, SessionUnknown, client_line, end_line, take_answer, take_end
from telewire.session import Session, finish
from telewire.stream import Stream
from tests.telewire.conftest import TOKEN, read_all, until

ID = "0123456789abcdef" * 2


class Served:
    """A server of sessions on a port of this machine, and raw connections to it."""

    def __init__(self) -> None:
        self.server = SessionServer(
            self._on_session, lambda: {"uid": 7}, token=TOKEN, on_end=lambda: self.ends.append(1)
        )
        self.ends: list[int] = []
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    def _on_session(self, session: Session) -> None:
        session.on_stream = self.streams.put_nowait

    async def start(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.server.listen(sock)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Return the answer to a line."""
        reader, writer = await self.connect()
        writer.write(line)
        answer = json.loads(await reader.readline())
        assert isinstance(answer, dict)
        return answer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.server.close()
        await asyncio.sleep(0.01)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.start()
    yield made
    await made.close()


def line(**changes: Any) -> bytes:
    return json.dumps({"v": 1, "token": TOKEN, "session": ID, "received": 0, **changes}).encode() + b"\n"


async def test_the_clients_line_is_that_of_the_contract() -> None:
    session = Session(client=True, session_id=ID)
    assert client_line(session, TOKEN) == line()
    session.close()


async def test_a_new_session_is_answered_with_the_hello(served: Served) -> None:
    assert await served.ask(line()) == {"v": 1, "received": 0, "resumed": False, "hello": {"uid": 7}}
    assert served.server.linked
    assert list(served.server.sessions) == [ID]


async def test_a_session_works_over_a_socket(served: Served) -> None:
    reader, writer = await served.connect()
    session = Session(client=True)

    class Link:
        def write(self, data: bytes) -> None:
            writer.write(data)

        def close(self) -> None:
            writer.close()

    link = Link()
    writer.write(client_line(session, TOKEN))
    session.attach(link, take_answer(session, await reader.readline()))
    assert session.hello == {"uid": 7}

    async def receive() -> None:
        while data := await reader.read(65536):
            session.link_data(link, data)

    receiving = asyncio.create_task(receive())
    near = session.open_stream()
    near.write(b"x" * 1_000_000)
    near.write_eof()
    far = await served.streams.get()
    assert await read_all(far) == b"x" * 1_000_000
    far.write(b"y" * 2_000_000)
    far.write_eof()
    assert await read_all(near) == b"y" * 2_000_000
    session.close()
    await until(lambda: not served.server.linked)
    await finish(receiving)


async def test_a_line_may_come_in_pieces_and_with_frames_behind_it(served: Served) -> None:
    session = Session(client=True, session_id=ID)
    session.mux.open_stream()
    frames = session.resume.send(session.mux.data_to_send())
    reader, writer = await served.connect()
    whole = client_line(session, TOKEN) + frames
    for start in range(0, len(whole), 37):
        writer.write(whole[start : start + 37])
        await writer.drain()
        await asyncio.sleep(0.001)
    assert json.loads(await reader.readline())["resumed"] is False
    assert (await served.streams.get()).id == 1
    session.close()


@pytest.mark.parametrize("token", ["another", "", None, "\ud800", TOKEN + "0"])
async def test_a_wrong_token_is_refused(served: Served, token: str | None) -> None:
    answer = await served.ask(line(token=token))
    assert set(answer) == {"v", "error"}
    assert served.server.sessions == {}


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"[" * 60_000 + b"\n",
        line(v=2),
        line(session="short"),
        line(received=5),
        line(received=-1),
        line(received=None),
        line(received=[]),
        line(received=float("inf")),
        line(received="x"),
    ],
)
async def test_a_bad_line_gets_one_error_and_the_connection_is_closed(served: Served, bad: bytes) -> None:
    reader, writer = await served.connect()
    writer.write(bad)
    answer = await reader.read()
    assert answer.count(b"\n") == 1
    assert set(json.loads(answer)) == {"v", "error"}
    assert served.server.sessions == {}


async def test_a_claim_that_cannot_be_right_gets_one_error_and_keeps_the_session(served: Served) -> None:
    await served.ask(line())
    reader, writer = await served.connect()
    writer.write(line(received=1000))
    answer = await reader.read()
    assert answer.count(b"\n") == 1
    assert "cannot go on" in json.loads(answer)["error"]
    assert served.server.sessions[ID].connected


async def test_who_says_nothing_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT", 0.05)
    reader, _ = await served.connect()
    async with asyncio.timeout(5):
        assert await reader.read() == b""


async def test_a_line_without_end_is_hung_up_on(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"x" * (handshake.LINE_LIMIT + 1))
    assert await reader.read() == b""


async def test_a_link_that_ends_leaves_its_session(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(line())
    await reader.readline()
    session = served.server.sessions[ID]
    writer.close()
    await until(lambda: not session.connected)
    assert not session.closed.done()
    assert (await served.ask(line()))["resumed"] is True
    assert session.connected


async def test_an_abandoned_server_ends_when_it_is_asked_to(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(line())
    await reader.readline()
    with pytest.raises(Conflict, match="another client is connected"):
        take_end(json.dumps(await served.ask(end_line())).encode())
    assert served.ends == []
    writer.close()
    await until(lambda: not served.server.linked)
    take_end(json.dumps(await served.ask(end_line())).encode())
    assert served.ends == [1]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"v": 1, "error": "wrong token: another client was here first"}, Forbidden),
        ({"v": 1, "error": "unknown session"}, SessionUnknown),
        ({"v": 1, "error": "the peer has 9 bytes of the session, this end 0 to 3; it cannot go on"}, SessionUnknown),
        ({"v": 1, "error": "the agent is full"}, Unavailable),
        ({"v": 2}, TeleError),
        ([], TeleError),
    ],
)
async def test_a_refusal_is_the_error_that_says_what_to_do(answer: Any, error: type[TeleError]) -> None:
    session = Session(client=True)
    with pytest.raises(TeleError) as caught:
        take_answer(session, json.dumps(answer).encode())
    assert type(caught.value) is error
    session.close()


async def test_an_agent_that_forgot_the_session_is_noticed() -> None:
    session = Session(client=True)
    fresh = json.dumps({"v": 1, "received": 0, "resumed": False, "hello": {}}).encode()
    assert take_answer(session, fresh) == 0
    session.resume.received = 1
    with pytest.raises(SessionUnknown, match="does not know the session any more"):
        take_answer(session, fresh)
    session.close()
