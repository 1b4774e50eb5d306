"""The agent: one server of sessions, and what each message on a stream asks for (``docs/architecture.md``, Streams)."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from teleagent import application, claims, dial, environment, files, nameserver
from teleagent.inbound import Listeners
from teleagent.ping import ping
from teleagent.request import Request
from teleagent.sftp import SftpServer
from telewire import __version__
from telewire.handshake import SessionServer
from telewire.messages import Missing, read_message
from telewire.session import Session
from telewire.stream import Stream

CAP_NET_ADMIN = 12
LAST_ANSWERS = 10.0


def abilities() -> dict[str, bool]:
    """Return what this container's capabilities allow (``CapEff`` of proc_pid_status(5))."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return {"net_admin": bool(effective >> CAP_NET_ADMIN & 1)}


class Agent:
    """Serves sessions until :attr:`stop` is set."""

    def __init__(self, token_sha256: str | None = None) -> None:
        self.stop = asyncio.Event()
        self.server = SessionServer(self._on_session, self._hello, token_digest=token_sha256, on_end=self.stop.set)
        self.listeners = Listeners()
        self.claims = claims.Claims()
        self._relay = nameserver.Relay()
        self._tasks: set[asyncio.Task[None]] = set()
        self._operations: dict[str, Callable[[Request], Awaitable[None]]] = {
            "dial": dial.tcp,
            "udp": dial.udp,
            "ping": self._ping,
            "dns": self._dns,
            "environment": self._environment,
            "mounts": self._mounts,
            "sftp": self._sftp,
            "listen": self._listen,
            "shutdown": self._shutdown,
        }

    async def start(self, *sockets: socket.socket) -> None:
        """Accept sessions on listening ``sockets``."""
        await self.server.listen(*sockets)

    async def close(self) -> None:
        """Give back ports, end sessions and what they asked for; file calls that hang are left.

        Requests that the daemon is answering have :data:`LAST_ANSWERS` seconds: the pod of a rolled-out workload ends while it is asked.
        Connections that clients have with the application by way of the agent go on (``teleagent.application.settled``).
        """
        await self.claims.close()
        if self.server.linked:
            await application.handed_settled(LAST_ANSWERS)
        self.listeners.close()
        self.server.close()
        self._relay.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    def _hello(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "hostname": socket.gethostname(),
            "uid": os.getuid(),
            "abilities": abilities(),
            **nameserver.resolver_configuration(),
        }

    def _on_session(self, session: Session) -> None:
        def on_stream(stream: Stream) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(session, stream), name=f"stream-{stream.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        session.on_stream = on_stream

    async def _serve(self, session: Session, stream: Stream) -> None:
        request = Request(session, stream)
        try:
            request.message = await read_message(stream)
            operation = self._operations.get(str(request.message.get("op")))
            if operation is None:
                raise Missing(
                    f"this agent ({__version__}) does not know {request.message.get('op')!r}; use an agent of your version"
                )
            await operation(request)
        except Exception as error:  # whatever it was, the daemon is told, and other streams go on
            request.fail(error)

    async def _ping(self, request: Request) -> None:
        request.answer(rtt_ms=await ping(str(request.message["host"])) * 1000)

    async def _dns(self, request: Request) -> None:
        request.accept()
        await self._relay.serve(request.stream)

    async def _environment(self, request: Request) -> None:
        pairs = environment.own([str(name).encode() for name in request.message.get("keep", [])])
        request.answer(environment=[[base64.b64encode(part).decode() for part in pair] for pair in pairs])

    async def _mounts(self, request: Request) -> None:
        paths = [str(path) for path in request.message["paths"]]
        found = await asyncio.get_running_loop().run_in_executor(None, lambda: [files.describe(path) for path in paths])
        request.answer(mounts=found)

    async def _sftp(self, request: Request) -> None:
        server = SftpServer(str(request.message.get("root", "/")), read_only=bool(request.message.get("read_only")))
        try:
            request.accept()
            await server.serve(request.stream)
            request.stream.close()
        finally:
            await server.close()

    async def _listen(self, request: Request) -> None:
        message, stream = request.message, request.stream
        mode = str(message.get("mode", "replace"))
        if mode not in ("replace", *claims.MODES):
            raise ValueError(f"{mode!r} is no mode")
        try:
            if mode == "replace":
                failed = await self.listeners.take(
                    request.session, stream, message["ports"], hold=bool(message.get("hold"))
                )
            else:
                failed = await self.claims.take(
                    request.session, stream, message["ports"], mode=mode, slot=claims.slot_of(message)
                )
            request.accept(failed=failed)
            while await stream.read():
                pass
            self.claims.give_back(stream)  # before the end: the last figures are told on the stream
            stream.close()
        finally:
            self.claims.give_back(stream)
            self.listeners.give_back(stream)

    async def _shutdown(self, request: Request) -> None:
        request.answer()
        asyncio.get_running_loop().call_later(0.1, self.stop.set)
