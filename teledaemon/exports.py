"""The files of engaged containers, relayed to Telemount: ``SFTP/1 <token> <engagement id>``, ``OK``, then bare SFTP packets."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from telewire import names, relay
from telewire.errors import Forbidden, TeleError
from telewire.stream import Stream

log = logging.getLogger(__name__)

LINE_TIMEOUT = 10.0
LINE_LIMIT = 1024


class Exports:
    """Listens on all addresses; ``admit`` says which peers may, ``opened`` gives the stream of an engagement's files."""

    def __init__(self, token: str, admit: Callable[[str], bool], opened: Callable[[str], Awaitable[Stream]]) -> None:
        self._token, self._admit, self._opened = token, admit, opened
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        sock = socket.create_server(("0.0.0.0", names.EXPORT_PORT), backlog=128)
        self._server = await asyncio.get_running_loop().create_server(lambda: _Client(self), sock=sock)

    def close(self) -> None:
        """Listen no more; what is relayed goes on as long as its stream."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()

    def line(self, client: _Client, line: bytes, transport: asyncio.Transport) -> None:
        """Serve a client that has sent its line."""
        task = asyncio.get_running_loop().create_task(self._serve(client, line, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Client, line: bytes, transport: asyncio.Transport) -> None:
        try:
            stream = await self._opened(self._check(line, str(transport.get_extra_info("peername")[0])))
        except (TeleError, OSError) as error:
            transport.write(f"ERR {' '.join(str(error).split())}\n".encode())
            transport.close()
            return
        if client.lost:
            stream.abort()
            return
        transport.write(b"OK\n")
        if client.early:
            stream.write(client.early)
        relay.join(transport, stream)

    def _check(self, line: bytes, peer: str) -> str:
        """Return the engagement's ID. Forbidden if the peer, the token or the line is not what it has to be."""
        words = line.decode(errors="replace").split(" ")
        if not self._admit(peer):
            raise Forbidden(f"{peer} may not read exports: only the engine's host may")
        if len(words) != 3 or words[0] != "SFTP/1":
            raise Forbidden("the first line is not `SFTP/1 TOKEN EXPORT`; is this a Telemount of the same version?")
        if not hmac.compare_digest(words[1].encode(), self._token.encode()):
            raise Forbidden("wrong token; use the one of this connection's daemon")
        return words[2]


class _Client(asyncio.Protocol):
    """A connection until its line is there."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._deadline: asyncio.TimerHandle | None = None
        self.early = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the line, not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = asyncio.get_running_loop().call_later(LINE_TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take the line; what comes behind it is kept."""
        assert self._transport is not None
        self._buffer += data
        line, feed, rest = self._buffer.partition(b"\n")
        if not feed:
            if len(self._buffer) > LINE_LIMIT:
                self._transport.abort()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport.pause_reading()
        self.early = rest
        self._exports.line(self, line, self._transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Remember it."""
        self.lost = True
        if self._deadline is not None:
            self._deadline.cancel()
