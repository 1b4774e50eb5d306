"""The daemon's end of a session with an agent that can be reached directly."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from telewire.handshake import client_line, take_answer
from telewire.session import Session

TOKEN = "0123456789abcdef"


class DirectLink(asyncio.Protocol):
    """A session's link over a TCP connection."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._line: bytes | None = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(client_line(self._session, TOKEN))

    def data_received(self, data: bytes) -> None:
        if self._line is not None:
            self._line += data
            line, feed, data = self._line.partition(b"\n")
            if not feed:
                return
            self._line = None
            self._session.attach(self, take_answer(self._session, line))
            self.ready.set_result(None)
        if data:
            self._session.link_data(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.link_lost(self, exc)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()


async def open_session(sock: socket.socket) -> Session:
    """Return a new session with the agent to which ``sock`` is connected."""
    session = Session(client=True)
    _, link = await asyncio.get_running_loop().create_connection(lambda: DirectLink(session), sock=sock)
    async with asyncio.timeout(5):
        await link.ready
    return session
