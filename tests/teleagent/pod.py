"""A pod and a client of it: two network namespaces joined by a veth, whose sockets this process uses, and agents in the pod."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from telewire.handshake import client_line, take_answer
from telewire.session import Session

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"
POD4, POD6 = "10.99.0.2", "fd99::2"
CLIENT4, CLIENT6 = "10.99.0.1", "fd99::1"
CLONE_NEWNET = 0x40000000
T = TypeVar("T")
_numbers = itertools.count()


def run(*command: str) -> str:
    """Run a command and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Netns:
    """A network namespace."""

    def __init__(self) -> None:
        self.name = f"tpt{os.getpid()}n{next(_numbers)}"
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str) -> str:
        """Run a command in it."""
        return run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def close(self) -> None:
        """Remove it."""
        run("ip", "netns", "del", self.name)

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread that is in this namespace: the sockets that it makes belong here."""
        result: list[T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                with open(f"/run/netns/{self.name}") as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """Return a non-blocking socket of this namespace."""
        return self.call(lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))

    def listener(self, host: str, port: int) -> socket.socket:
        """Return a listening TCP socket; all addresses of both families with host ``""``."""
        if not host:
            return self.call(
                lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return self.call(lambda: socket.create_server((host, port), family=family, backlog=1024))

    async def connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a TCP connection from here."""
        sock = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def ask(
        self, port: int, data: bytes = b"hello", host: str = POD4, *, eof: bool = True, seconds: float = 10
    ) -> bytes:
        """Return all that is answered to ``data``."""
        async with asyncio.timeout(seconds):
            reader, writer = await self.connect(host, port)
            try:
                writer.write(data)
                if eof:
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def ask_udp(self, port: int, data: bytes, host: str = POD4, seconds: float = 2) -> bytes:
        """Return the answer to a datagram from a new port; a connected socket, so that it must come from where the question went."""
        with self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
            sock.send(data)
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().sock_recv(sock, 65535)


class Agent:
    """An agent's process in a pod."""

    def __init__(self, pod: Netns, port: int, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.pod = pod
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - not a pipe: nobody reads it meanwhile
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{pod.name}", *before, sys.executable, "-m", "teleagent", "--port", str(port), *arguments],
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/", stderr=self._log,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            with pod.socket(socket.AF_INET, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
                sock.settimeout(1)
                sock.connect(("127.0.0.1", port))
                return
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @property
    def resident(self) -> int:
        """Its resident memory in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def log(self) -> str:
        """Return what it has logged."""
        self._log.seek(0)
        return self._log.read().decode()

    def close(self) -> str:
        """Kill it; return what it has logged."""
        self.process.kill()
        self.process.wait()
        with self._log:
            return self.log()


class Link(asyncio.Protocol):
    """The daemon's end of a link, which can be made to lose everything."""

    def __init__(self, session: Session, token: str = TOKEN) -> None:
        self._session = session
        self._token = token
        self._line = b""
        self._attached = False
        self._cut = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(client_line(self._session, self._token))

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        if not self._attached:
            self._line += data
            head, feed, data = self._line.partition(b"\n")
            if not feed:
                return
            self._attached = True
            try:
                self._session.attach(self, take_answer(self._session, head))
            except Exception as error:
                self.ready.set_exception(error)
                return
            self.ready.set_result(None)
        if data:
            self._session.link_data(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError())
        self._session.link_lost(self, exc)

    def pause_writing(self) -> None:
        self._session.link_paused(self)

    def resume_writing(self) -> None:
        self._session.link_resumed(self)

    def write(self, data: bytes) -> None:
        if not self._cut:
            self._transport.write(data)

    def silence(self) -> None:
        """Lose all that is sent from now on, both ways, and say nothing."""
        self._cut = True

    def stall(self) -> None:
        """Read nothing any more."""
        self._transport.pause_reading()

    def close(self) -> None:
        self._transport.close()

    def vanish(self) -> None:
        """Go away without an end to the session."""
        self._transport.abort()


async def attach(session: Session, agent: Agent, token: str = TOKEN) -> Link:
    """Give ``session`` a link to ``agent``."""
    sock = agent.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", agent.port))
    _, link = await loop.create_connection(lambda: Link(session, token), sock=sock)
    async with asyncio.timeout(5):
        await link.ready
    return link


class Pod:
    """The two namespaces, an application's servers in the pod, and agents."""

    def __init__(self) -> None:
        self.pod, self.client = Netns(), Netns()
        self.agents: list[Agent] = []
        self.sessions: list[Session] = []
        self.servers: list[Any] = []
        self.seen: list[tuple[str, bytes]] = []
        inside, outside = f"{self.pod.name}a"[-15:], f"{self.pod.name}b"[-15:]
        run(
            "ip",
            "link",
            "add",
            inside,
            "netns",
            self.pod.name,
            "type",
            "veth",
            "peer",
            "name",
            outside,
            "netns",
            self.client.name,
        )
        for ns, link, four, six in ((self.pod, inside, POD4, POD6), (self.client, outside, CLIENT4, CLIENT6)):
            ns.run("ip", "link", "set", link, "up")
            ns.run("ip", "address", "add", f"{four}/24", "dev", link)
            ns.run("ip", "-6", "address", "add", f"{six}/64", "dev", link, "nodad")

    async def agent(self, *arguments: str, before: tuple[str, ...] = ()) -> Agent:
        """Start an agent; the sessions of others live on meanwhile."""
        port = 4050 + len(self.agents)
        self.agents.append(await asyncio.to_thread(Agent, self.pod, port, *arguments, before=before))
        return self.agents[-1]

    async def session(self, agent: Agent) -> tuple[Session, Link]:
        """Open a session with an agent, watched as the daemon does."""
        session = Session(client=True)
        self.sessions.append(session)
        link = await attach(session, agent)
        session.watch_closely()
        return session, link

    async def application(self, port: int, host: str = "", name: bytes = b"app:") -> asyncio.Server:
        """Serve TCP in the pod: all that came, after a name, once the client has ended."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            with contextlib.suppress(OSError):
                data = await reader.read(-1)
                self.seen.append((peer[0], data))
                writer.write(name + data)
                await writer.drain()
                writer.close()
                await writer.wait_closed()

        server = await asyncio.start_server(serve, sock=self.pod.listener(host, port))
        self.servers.append(server)
        return server

    async def application_udp(self, port: int, host: str = "::", name: bytes = b"app:") -> None:
        """Serve UDP in the pod: a name and the datagram."""

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast("asyncio.DatagramTransport", transport)

            def datagram_received(self, data: bytes, addr: Any) -> None:
                self.transport.sendto(name + data, addr)

        sock = self.pod.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if ":" in host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=sock)
        self.servers.append(transport)

    def tables(self) -> str:
        """Return the pod's nftables."""
        return self.pod.run("nft", "list", "ruleset")

    async def close(self) -> str:
        """End everything; return what the agents have logged."""
        for session in self.sessions:
            session.close()
        for server in self.servers:
            server.close()
        logs = "".join([agent.close() for agent in self.agents])
        await asyncio.sleep(0.05)
        self.pod.close()
        self.client.close()
        return logs
