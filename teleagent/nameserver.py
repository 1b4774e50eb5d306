"""DNS messages relayed to the pod's own name servers (RFC 1035), many at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from typing import Any

from telewire.messages import DatagramReader, pack_datagram
from telewire.stream import Stream

RESOLV_CONF = "/etc/resolv.conf"
DNS_PORT = 53
TRY_TIMEOUT = 1.5
TRIES = 3
MOST_QUERIES = 1000
"""Asked at the same time; what is above waits for its turn."""
ANSWERS_BEHIND = 4 << 20
"""Bytes of answers that wait for the session before further ones are dropped."""
TRUNCATED = 0x02
HEADER = 12


def resolver_configuration(path: str = RESOLV_CONF) -> dict[str, Any]:
    """Return ``nameservers``, ``search`` and ``ndots`` of a resolv.conf(5); nothing but defaults if there is none."""
    servers: list[str] = []
    search: list[str] = []
    ndots = 1
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError), open(path, errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0].startswith(("#", ";")):
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            ndots = next((int(w[6:]) for w in words if w.startswith("ndots:") and w[6:].isdigit()), ndots)
    return {"nameservers": servers, "search": search, "ndots": ndots}


def question_of(message: bytes) -> bytes:
    """Return the question section of a message with one question, as it stands; empty if it has none or is cut."""
    position = HEADER
    if len(message) < HEADER or message[4:6] != b"\0\1":
        return b""
    while position < len(message) and 0 < message[position] < 64:
        position += message[position] + 1
    end = position + 5
    return message[HEADER:end] if end <= len(message) and message[position] == 0 else b""


def server_failure(query: bytes) -> bytes:
    """Return the answer SERVFAIL to ``query``."""
    question = question_of(query)
    flags = 0x8082 | (query[2] & 0x79) << 8
    return query[:2] + struct.pack(">HHHHH", flags, 1 if question else 0, 0, 0, 0) + question


class _Upstream:
    """One UDP socket to one server. Queries bear an ID of our own making, so that those of several clients do not mix."""

    def __init__(self, server: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            server, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._waiting: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:
            answer = self._socket.recv(65535)
        except BlockingIOError:
            return
        except OSError as error:  # ICMP: nobody listens there
            for _question, future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            return
        if len(answer) < HEADER or not answer[2] & 0x80:
            return
        waiting = self._waiting.get(struct.unpack_from(">H", answer)[0])
        if waiting is None:
            return
        question, future = waiting
        if not future.done() and question_of(answer).lower() in (question, b""):
            future.set_result(answer)

    async def ask(self, query: bytes) -> bytes:
        """Return the answer to ``query``, with another ID. OSError or TimeoutError if there is none."""
        number = random.randrange(65536)
        while number in self._waiting:
            number = random.randrange(65536)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = (question_of(query).lower(), future)
        try:
            self._socket.send(struct.pack(">H", number) + query[2:])
            async with asyncio.timeout(TRY_TIMEOUT):
                return await future
        finally:
            del self._waiting[number]


class Relay:
    """Relays messages to the name servers of a resolv.conf, read anew when it has changed."""

    def __init__(self, path: str = RESOLV_CONF, port: int = DNS_PORT) -> None:
        self._path = path
        self._port = port
        self._servers: list[str] = []
        self._changed = -1
        self._upstreams: dict[str, _Upstream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MOST_QUERIES)

    def close(self) -> None:
        """Give up all queries."""
        for task in list(self._tasks):
            task.cancel()
        for upstream in self._upstreams.values():
            upstream.close()
        self._upstreams.clear()

    def _current_servers(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):  # for a moment, while it is replaced: the servers stay
            changed = os.stat(self._path).st_mtime_ns
            if changed != self._changed:
                self._changed = changed
                self._servers = resolver_configuration(self._path)["nameservers"]
        return self._servers

    async def serve(self, stream: Stream) -> None:
        """Answer each message of the stream, in whatever order the answers come, until it ends."""
        reader = DatagramReader()

        async def one(query: bytes) -> None:
            try:
                answer = await self.exchange(query)
            finally:
                self._turn.release()
            if not stream.is_closing() and stream.get_write_buffer_size() < ANSWERS_BEHIND:
                stream.write(pack_datagram(answer))

        while data := await stream.read():
            for query in reader.feed(data):
                if len(query) >= HEADER:
                    await self._turn.acquire()
                    task = asyncio.get_running_loop().create_task(one(query))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        stream.close()

    async def exchange(self, query: bytes) -> bytes:
        """Return the answer to one query, with its ID; SERVFAIL if no server gives any."""
        servers = self._current_servers()
        for attempt in range(max(TRIES, len(servers)) if servers else 0):
            server = servers[attempt % len(servers)]
            try:
                upstream = self._upstreams.get(server)
                if upstream is None:
                    upstream = self._upstreams[server] = _Upstream(server, self._port)
                answer = await upstream.ask(query)
                if answer[2] & TRUNCATED:
                    answer = await self._by_tcp(server, query)
                return query[:2] + answer[2:]
            except (OSError, EOFError):  # the next one, or the same once more
                continue
        return server_failure(query)

    async def _by_tcp(self, server: str, query: bytes) -> bytes:
        async with asyncio.timeout(TRY_TIMEOUT * 2):
            reader, writer = await asyncio.open_connection(server, self._port)
            try:
                writer.write(pack_datagram(query))
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                answer = await reader.readexactly(size)
            finally:
                writer.close()
        if len(answer) < HEADER:
            raise EOFError("an answer without a header")
        return answer
