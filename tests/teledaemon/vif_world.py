"""Namespaces for the VIF: a client, the daemon's side, and the "cluster" behind a real agent.

client 172.30.0.2 ── 172.30.0.1 VIF ══ session ══ agent, in a namespace that has the cluster's addresses and no route from the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.teledaemon.netns import Namespace

SERVICE = {4: "10.96.0.7", 6: "fd00:10:96::7"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class World:
    """Three namespaces, the agent and the VIF."""

    def __init__(self) -> None:
        self.client, self.daemon, self.cluster = Namespace(), Namespace(), Namespace()
        self.writers: list[asyncio.StreamWriter] = []
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        self.cluster.address("lo", "10.96.0.7/32", "fd00:10:96::7/128")
        self.daemon.link("br0", self.client, "eth0")
        self.daemon.address("br0", "172.30.0.1/24", "fd00:30::1/64")
        self.client.address("eth0", "172.30.0.2/24", "fd00:30::2/64")
        self.client.run("ip", "route", "add", "default", "via", "172.30.0.1")
        self.client.run("ip", "route", "add", "default", "via", "fd00:30::1")
        # As the daemon's container is started (docs/architecture.md).
        self.daemon.sysctl(
            ipv4__ip_forward=1,
            ipv4__conf__all__rp_filter=0,
            ipv4__conf__default__rp_filter=0,
            ipv4__conf__default__accept_local=1,
            ipv4__conf__all__accept_local=1,
            ipv6__conf__all__forwarding=1,
        )
        self.agent = self.cluster.start("-m", "teleagent")
        self._until_listening()
        self.vif = self.daemon.start(
            "-m", "tests.teledaemon.vif_process", str(self.cluster.pid), "10.96.0.0/16", "fd00:10:96::/112"
        )
        assert self.said() == "ready\n"

    def _until_listening(self) -> None:
        deadline = time.monotonic() + 10
        while not self.cluster.run("ss", "-Htln", "sport = :4050").stdout:
            assert time.monotonic() < deadline
            assert self.agent.poll() is None
            time.sleep(0.05)

    def said(self) -> str:
        assert self.vif.stdout is not None
        return self.vif.stdout.readline()

    def tell(self, line: str) -> None:
        assert self.vif.stdin is not None
        self.vif.stdin.write(line)
        self.vif.stdin.flush()

    def close(self) -> None:
        for namespace in (self.daemon, self.cluster, self.client):
            namespace.close()

    @contextlib.asynccontextmanager
    async def serving(self, version: int, serve: Serve) -> AsyncIterator[int]:
        """Serve TCP in the cluster; yield the port."""
        sock = self.cluster.socket(FAMILY[version])
        sock.bind((SERVICE[version], 0))

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)
            await serve(reader, writer)

        server = await asyncio.start_server(served, sock=sock, backlog=512)
        try:
            yield sock.getsockname()[1]
        finally:
            server.close()

    async def connect(
        self, version: int, port: int, host: str | None = None, where: Namespace | None = None, source: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as the client, from the port ``source``."""
        sock = (where or self.client).socket(FAMILY[version])
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source))
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(sock, (host or SERVICE[version], port))
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock)
        self.writers.append(writer)
        return reader, writer

    async def flow(self, version: int, port: int) -> socket.socket:
        """Return a UDP socket of the client, connected to the cluster's address."""
        sock = self.client.socket(FAMILY[version], socket.SOCK_DGRAM)
        await asyncio.get_running_loop().sock_connect(sock, (SERVICE[version], port))
        return sock

    @contextlib.asynccontextmanager
    async def echoing(self, version: int) -> AsyncIterator[int]:
        """Send datagrams back in the cluster, the word ``twice`` two times; yield the port."""
        sock = self.cluster.socket(FAMILY[version], socket.SOCK_DGRAM)
        sock.bind((SERVICE[version], 0))
        loop = asyncio.get_running_loop()

        def answer() -> None:
            data, address = sock.recvfrom(65535)
            for _ in range(2 if data == b"twice" else 1):
                sock.sendto(data, address)

        loop.add_reader(sock, answer)
        try:
            yield sock.getsockname()[1]
        finally:
            loop.remove_reader(sock)
            sock.close()
