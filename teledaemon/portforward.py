"""A link over ``pods/portforward``: one WebSocket through the API server to a port of a pod's loopback.

Sub-protocol ``v4.channel.k8s.io``: each binary message begins with a channel, 0 data and 1 errors for the first port, and the first
message of each channel is the port's number.
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/ (connect POST requests to portforward of Pod)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

from teledaemon.kube import Cluster, path
from telewire import names
from telewire.errors import Unavailable
from telewire.handshake import client_line, end_line, take_answer, take_end
from telewire.session import Session

log = logging.getLogger(__name__)

PROTOCOL = "v4.channel.k8s.io"
OPEN_TIMEOUT = 8.0
FRAME = 256 * 1024
"""Bytes that small writes are joined to before they are sent as one message."""
HIGH, LOW = 4 << 20, 1 << 20
DATA, ERROR = 0, 1


class WebSocketLink:
    """A session's link over an open port-forward."""

    def __init__(self, socket: Any, session: Session) -> None:
        self._socket = socket
        self._session = session
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._more = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, rest: bytes) -> None:
        """Go on after the handshake, with what came behind it."""
        if rest:
            self._session.link_data(self, rest)
        self._tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self._send())]

    def write(self, data: bytes) -> None:
        """Send ``data``; the session is told to hold back when too much waits."""
        if self._closing:
            return
        self._pending.append(data)
        self._size += len(data)
        self._more.set()
        if self._size > HIGH and not self._paused:
            self._paused = True
            self._session.link_paused(self)

    def close(self) -> None:
        """Close when what was written is sent, or two seconds later."""
        if not self._closing:
            self._closing = True
            self._more.set()
            closer = self._loop.create_task(self._close())
            self._tasks.append(closer)

    async def _close(self) -> None:
        sender = self._tasks[1] if len(self._tasks) > 2 else None
        if sender is not None:
            await asyncio.wait([sender], timeout=2.0)
            for task in self._tasks[:2]:
                task.cancel()
        with contextlib.suppress(Exception):
            await self._socket.close()

    def _lost(self, error: Exception | None) -> None:
        if not self._closing:
            self.close()
            self._session.link_lost(self, error)

    async def _send(self) -> None:
        try:
            while not (self._closing and not self._pending):
                if not self._pending:
                    self._more.clear()
                    await self._more.wait()
                    continue
                parts, size = [b"\0"], 0
                while self._pending and size < FRAME:
                    part = self._pending.popleft()
                    parts.append(part)
                    size += len(part)
                await self._socket.send_bytes(b"".join(parts))
                self._size -= size
                if self._paused and self._size < LOW:
                    self._paused = False
                    self._session.link_resumed(self)
        except Exception as error:  # whatever the library raises, the link is of no use any more
            self._lost(error)

    async def _receive(self) -> None:
        try:
            error: Exception | None = None
            async for message in self._socket:
                data = message.data
                if not isinstance(data, bytes) or not data:
                    continue
                if data[0] == DATA:
                    self._session.link_data(self, memoryview(data)[1:])
                elif len(data) > 1:
                    error = Unavailable(data[1:].decode(errors="replace").strip())
                    break
            self._lost(error or Unavailable("the port-forward was closed"))
        except Exception as failure:
            self._lost(failure)


async def open_link(
    cluster: Cluster, namespace: str, pod: str, session: Session, token: str, port: int = names.AGENT_PORT
) -> None:
    """Open a port-forward to the agent on ``port`` in ``pod`` and attach ``session`` to it. A TeleError if that cannot be."""
    socket = await _dial(cluster, namespace, pod, port)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            line, rest = await _handshake(socket, client_line(session, token))
        received = take_answer(session, line)
        link = WebSocketLink(socket, session)
        session.attach(link, received)
    except TimeoutError:
        await socket.close()
        raise Unavailable(f"the agent in pod {pod} does not answer") from None
    except OSError as error:
        await socket.close()
        raise Unavailable(f"the port-forward to pod {pod} broke off: {error}") from None
    except BaseException:
        await socket.close()
        raise
    link.start(rest)


async def _dial(cluster: Cluster, namespace: str, pod: str, port: int) -> Any:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await cluster.websocket(path("pods", namespace, pod, "portforward"), {"ports": str(port)}, PROTOCOL)
    except TimeoutError:
        raise Unavailable(f"the API server {cluster.server} does not answer; check your network and VPN") from None


async def end_abandoned(cluster: Cluster, namespace: str, pod: str, port: int) -> None:
    """Ask an agent that no client has a link with to end. A TeleError if it is not there, or does not end."""
    socket = await _dial(cluster, namespace, pod, port)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            line, _ = await _handshake(socket, end_line())
        take_end(line)
    except TimeoutError:
        raise Unavailable(f"the agent in pod {pod} does not answer") from None
    finally:
        await socket.close()


async def _handshake(socket: Any, hello: bytes) -> tuple[bytes, bytes]:
    """Send ``hello``; return the agent's line and what came behind it."""
    await socket.send_bytes(b"\0" + hello)
    announced: set[int] = set()
    buffer = b""
    async for message in socket:
        data = message.data
        if not isinstance(data, bytes) or not data:
            continue
        channel, data = data[0], data[1:]
        if channel not in announced:
            announced.add(channel)
            data = data[2:]
        if channel == ERROR and data:
            raise Unavailable(data.decode(errors="replace").strip())
        buffer += data
        line, feed, rest = buffer.partition(b"\n")
        if feed:
            return line, rest
    raise Unavailable("the port-forward was closed before the agent answered")
