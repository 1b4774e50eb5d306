"""How a link begins: one line of JSON each way (``docs/architecture.md``, Sessions), and the server that agents run."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from typing import Any, cast

from telewire.errors import Conflict, Forbidden, TeleError, Unavailable
from telewire.session import Session

LINE_LIMIT = 65536
HANDSHAKE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0


class SessionUnknown(Unavailable):
    """The agent does not know the session any more (it was restarted, or gave up waiting)."""


def client_line(session: Session, token: str) -> bytes:
    """Return what the daemon sends first on a new link."""
    hello = {"v": 1, "token": token, "session": session.id, "received": session.resume.received}
    return json.dumps(hello).encode() + b"\n"


def end_line() -> bytes:
    """Return what asks an agent that no client has a link with to end; it takes no token, for nobody is there to lose anything."""
    return json.dumps({"v": 1, "end": True}).encode() + b"\n"


def take_end(line: bytes) -> None:
    """Take the answer to :func:`end_line`. Conflict if a client has a link."""
    answer = _parse(line)
    if "error" in answer:
        raise Conflict(f"the agent does not end: {answer['error']}")


def take_answer(session: Session, line: bytes) -> int:
    """Return how much the agent has of the session; note its hello. Forbidden, SessionUnknown or TeleError if it says no."""
    answer = _parse(line)
    if "error" in answer:
        text = str(answer["error"])
        kind = Forbidden if "token" in text else SessionUnknown if "session" in text else Unavailable
        raise kind(f"the agent refuses the session: {text}")
    if not answer.get("resumed") and (
        session.resume.received or session.resume.unacknowledged != session.resume.total_sent
    ):
        raise SessionUnknown("the agent does not know the session any more")
    session.hello = answer.get("hello") or {}
    return int(answer.get("received", 0))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
        if not isinstance(parsed, dict) or parsed.get("v") != 1:
            raise ValueError("not version 1")
    except (ValueError, RecursionError) as error:
        raise TeleError(f"the other end does not speak this protocol: {error}") from None
    return parsed


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class SocketLink(asyncio.BufferedProtocol):
    """A link over a TCP connection, at the agent's end."""

    def __init__(self, server: SessionServer) -> None:
        self._server = server
        self._buffer = memoryview(bytearray(256 * 1024))
        self._line = b""
        self._session: Session | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's line, not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=4 << 20)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self._transport.abort)

    def get_buffer(self, _hint: int) -> memoryview:
        """Return the read buffer."""
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        """Hand bytes to the session, after the line."""
        data = self._buffer[:size]
        if self._session is not None:
            self._session.link_data(self, data)
            return
        self._line += bytes(data)
        head, feed, rest = self._line.partition(b"\n")
        if not feed:
            if len(self._line) > LINE_LIMIT:
                self.close()
            return
        if self._deadline:
            self._deadline.cancel()
        self._line = b""
        self._session = self._server.accept(self, head)
        if self._session is not None and rest:
            self._session.link_data(self, rest)

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close when what was written is sent, but do not keep it long for a peer that takes nothing any more."""
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def pause_writing(self) -> None:
        """Tell the session to hold back."""
        if self._session is not None:
            self._session.link_paused(self)

    def resume_writing(self) -> None:
        """Tell the session to go on."""
        if self._session is not None:
            self._session.link_resumed(self)

    def eof_received(self) -> bool:
        """A half-closed link is of no use."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session."""
        if self._deadline:
            self._deadline.cancel()
        if self._session is not None:
            self._session.link_lost(self, exc)


class SessionServer:
    """The agent's end: takes links on sockets, checks the token, keeps sessions for ``resume_timeout`` seconds.

    Only the token whose SHA-256 is ``token_digest`` (hex) is taken; without one, the first link's becomes the server's. ``on_session``
    is called with each new session before its first byte, ``on_end`` when an abandoned server is asked to end.
    """

    def __init__(
        self,
        on_session: Callable[[Session], None],
        hello: Callable[[], dict[str, Any]],
        *,
        token: str | None = None,
        token_digest: str | None = None,
        resume_timeout: float = 120.0,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._on_end = on_end
        self._on_session = on_session
        self._hello = hello
        self._token_digest = _digest(token) if token else (token_digest or "").lower()
        self._resume_timeout = resume_timeout
        self._servers: list[asyncio.Server] = []
        self.sessions: dict[str, Session] = {}

    async def listen(self, *sockets: socket.socket) -> None:
        """Accept links on listening ``sockets``."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: SocketLink(self), sock=sock))

    @property
    def linked(self) -> bool:
        """Whether any session has a link."""
        return any(session.connected for session in self.sessions.values())

    def accept(self, link: SocketLink, line: bytes) -> Session | None:
        """Answer a client's line; return the session that goes on over ``link``, or None if it was refused."""
        try:
            hello = _parse(line)
            if hello.get("end"):
                self._end(link)
                return None
            token, session_id = str(hello.get("token") or ""), str(hello.get("session") or "")
            received = int(hello.get("received", 0))
            if not self._token_digest and token:
                self._token_digest = _digest(token)
            if not token or not hmac.compare_digest(_digest(token), self._token_digest):
                raise TeleError("wrong token: another client was here first")
            session = self.sessions.get(session_id)
            resumed = session is not None
            if session is None:
                if received or len(session_id) != 32:
                    raise TeleError("unknown session")
                session = self._new(session_id)
            session.check(received)
            answer = {"v": 1, "received": session.resume.received, "resumed": resumed, "hello": self._hello()}
            link.write(json.dumps(answer).encode() + b"\n")
            session.attach(link, received)
        except (TeleError, ValueError, TypeError, OverflowError) as error:
            link.write(json.dumps({"v": 1, "error": str(error)}).encode() + b"\n")
            link.close()
            return None
        return session

    def _end(self, link: SocketLink) -> None:
        if self.linked or self._on_end is None:
            raise TeleError("another client is connected")
        link.write(json.dumps({"v": 1}).encode() + b"\n")
        link.close()
        self._on_end()

    def _new(self, session_id: str) -> Session:
        session = Session(client=False, session_id=session_id, resume_timeout=self._resume_timeout)
        self.sessions[session_id] = session
        session.closed.add_done_callback(lambda _: self.sessions.pop(session_id, None))
        self._on_session(session)
        return session

    def close(self) -> None:
        """End all sessions and stop listening."""
        for server in self._servers:
            server.close()
        for session in list(self.sessions.values()):
            session.close("the agent ends")
