"""The VIF in namespaces of its own, between a client and a real agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest

from tests.teledaemon.conftest import free_port
from tests.teledaemon.vif_world import SERVICE, World

pytestmark = pytest.mark.root
NOBODY = {4: "10.96.0.99", 6: "fd00:10:96::99"}
IP_RECVERR = 11
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture(autouse=True)
async def _tidy(world: World) -> AsyncIterator[None]:
    """Leave no socket to the next test."""
    yield
    for writer in world.writers:
        writer.transport.abort()
    world.writers.clear()
    await asyncio.sleep(0.01)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes; say so at the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b" and no more")
    writer.write_eof()
    writer.close()


async def refused(call: Awaitable[object]) -> int | None:
    """Return the error number of a call that fails, within five seconds."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        async with asyncio.timeout(5):
            await call
    return caught.value.errno


@BOTH
async def test_a_connection_with_its_half_close(world: World, version: int) -> None:
    async with world.serving(version, echo) as port, asyncio.timeout(10):
        reader, writer = await world.connect(version, port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"again")
        writer.write_eof()
        assert await reader.read() == b"again and no more"
        writer.close()


async def test_the_server_sees_the_agents_address_and_the_client_the_services(world: World) -> None:
    peers: list[str] = []

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.close()

    async with world.serving(4, tell) as port:
        reader, writer = await world.connect(4, port)
        assert await reader.read() == b""
        assert writer.get_extra_info("peername") == ("10.96.0.7", port)
        writer.close()
    assert peers == ["10.96.0.7"]


async def test_megabytes_arrive_as_they_were_sent(world: World) -> None:
    async with world.serving(4, echo) as port, asyncio.timeout(20):
        reader, writer = await world.connect(4, port)
        sent = os.urandom(4 << 20)

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read(-1))
        writer.close()
    assert hashlib.sha256(received.removesuffix(b" and no more")).digest() == hashlib.sha256(sent).digest()


async def test_a_hundred_connections_at_once(world: World) -> None:
    async def one(number: int, port: int) -> bytes:
        reader, writer = await world.connect(4, port)
        writer.write(b"%d" % number)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    async with world.serving(4, echo) as port, asyncio.timeout(20):
        answers = await asyncio.gather(*(one(number, port) for number in range(100)))
    assert answers == [b"%d and no more" % number for number in range(100)]


@BOTH
async def test_one_port_of_the_client_serves_connections_to_several_targets(world: World, version: int) -> None:
    """As kernels choose ports; behind the NAT all targets are one, so that another port stands for it there."""
    source = free_port()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(10):
        ports = [await stack.enter_async_context(world.serving(version, echo)) for _ in range(4)]
        ends = await asyncio.gather(*(world.connect(version, port, source=source) for port in ports))
        for number, (_, writer) in enumerate(ends):
            writer.write(b"to port %d" % ports[number])
        for number, (reader, writer) in enumerate(ends):
            writer.write_eof()
            assert await reader.read() == b"to port %d and no more" % ports[number]


async def test_the_daemons_own_namespace_has_the_cluster_too(world: World) -> None:
    async with world.serving(4, echo) as port:
        reader, writer = await world.connect(4, port, where=world.daemon)
        writer.write_eof()
        assert await reader.read() == b" and no more"
        writer.close()


@BOTH
async def test_a_refused_connection_is_refused_at_once(world: World, version: int) -> None:
    times: list[float] = []
    while not times or (min(times) > 0.9 and len(times) < 5):  # a busy machine may delay one, not each
        started = time.monotonic()
        assert await refused(world.connect(version, free_port())) == errno.ECONNREFUSED
        times.append(time.monotonic() - started)
    assert min(times) < 0.9  # before the client's kernel asks again


@BOTH
async def test_an_address_that_cannot_be_reached_is_unreachable(world: World, version: int) -> None:
    assert await refused(world.connect(version, 80, NOBODY[version])) == errno.EHOSTUNREACH


async def test_a_reset_is_a_reset(world: World) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with world.serving(4, reset) as port, asyncio.timeout(5):
        reader, writer = await world.connect(4, port)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_nobody_comes_in_by_the_listener_itself(world: World) -> None:
    """Only what the VIF's NAT rule has brought is served."""
    for host in ("198.18.0.1", "172.30.0.1"):
        try:
            reader, writer = await world.connect(4, 15001, host)
        except OSError:
            continue
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


@BOTH
@pytest.mark.parametrize("size", [0, 5, 1400, 20000, 65000])
async def test_datagrams_of_any_size(world: World, version: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    async with world.echoing(version) as port, asyncio.timeout(10):
        with await world.flow(version, port) as sock:
            sent = os.urandom(size)
            sock.send(sent)
            assert await loop.sock_recv(sock, 65535) == sent


async def test_datagrams_of_one_flow_come_back_to_it(world: World) -> None:
    loop = asyncio.get_running_loop()
    async with world.echoing(4) as port, asyncio.timeout(10):
        with await world.flow(4, port) as one, await world.flow(4, port) as two:
            for number in range(20):
                one.send(b"one %d" % number)
            two.send(b"twice")
            assert {await loop.sock_recv(one, 100) for _ in range(20)} == {b"one %d" % number for number in range(20)}
            assert [await loop.sock_recv(two, 100) for _ in range(2)] == [b"twice"] * 2


@BOTH
@pytest.mark.parametrize("size", [5, 20000])
async def test_a_refused_datagram_is_told_to_its_sender(world: World, version: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    with await world.flow(version, free_port()) as sock:
        sock.send(bytes(size))
        assert await refused(loop.sock_recv(sock, 100)) == errno.ECONNREFUSED


@BOTH
def test_ping_tells_who_is_there(world: World, version: int) -> None:
    there = world.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", SERVICE[version])
    assert "2 received" in there.stdout
    large = world.client.run("ping", "-n", "-c", "1", "-W", "3", "-s", "9000", SERVICE[version])
    assert "9008 bytes from" in large.stdout
    nobody = world.client.run("ping", "-n", "-c", "1", "-W", "3", NOBODY[version], check=False)
    assert nobody.returncode == 1
    assert "nreachable" in nobody.stdout


async def test_what_is_no_cluster_address_is_not_taken(world: World) -> None:
    """The VIF has the cluster's subnets only; the rest goes its way, here nowhere."""
    assert await refused(world.connect(4, 80, "192.0.2.1")) == errno.ENETUNREACH
    assert "tel0" in world.daemon.run("ip", "route", "get", "10.96.200.1").stdout


async def test_without_a_session_everything_is_unreachable_and_the_end_is_clean(world: World) -> None:
    """The last one here: it takes the VIF down."""
    world.tell("lose\n")
    assert world.said() == "lost\n"
    loop = asyncio.get_running_loop()
    assert await refused(world.connect(4, 80)) == errno.EHOSTUNREACH
    with await world.flow(4, 9) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)  # it passes: only who asks for it is told
        sock.send(b"x")
        assert await refused(loop.sock_recv(sock, 100)) == errno.EHOSTUNREACH
    world.tell("stop\n")
    assert world.said().startswith("connections 0 ")
    assert world.vif.wait(10) == 0
    with pytest.raises(AssertionError):
        world.daemon.run("ip", "link", "show", "tel0")
