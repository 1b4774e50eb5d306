from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from teleagent import dial, ping
from teleagent.agent import abilities
from telewire.messages import AgentError as Failed
from telewire.messages import DatagramReader, Missing, Refused, TimedOut, Unreachable, pack_datagram, request
from telewire.session import Session
from tests.teleagent.conftest import free_port, until


async def test_hello(session: Session) -> None:
    hello = session.hello
    assert hello["hostname"] == socket.gethostname()
    assert hello["uid"] == os.getuid()
    assert hello["abilities"] == abilities()
    assert set(hello) >= {"version", "nameservers", "search", "ndots"}


async def test_bytes_both_ways_and_half_close(session: Session) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.read()  # answers only after the end of the request
        writer.write(whole[::-1])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        stream, answer = await request(session, {"op": "dial", "host": "127.0.0.1", "port": port})
        assert answer == {"ok": True}
        data = os.urandom(3_000_000)
        stream.write(data)
        stream.write_eof()
        assert await stream.readexactly(len(data)) == data[::-1]
        assert await stream.read() == b""


async def test_a_reset_comes_through_both_ways(session: Session) -> None:
    ended: list[BaseException | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"r":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        try:
            await reader.read()
            ended.append(None)
        except ConnectionError as error:
            ended.append(error)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        message = {"op": "dial", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}
        stream, _ = await request(session, message)
        stream.write(b"r")
        with pytest.raises(ConnectionResetError):
            await stream.read()
        stream, _ = await request(session, message)
        stream.write(b"x")
        await session_settles()
        stream.abort()
        await until(lambda: ended)
        assert isinstance(ended[0], ConnectionResetError)


async def session_settles() -> None:
    await asyncio.sleep(0.05)


async def test_refused_at_once(session: Session) -> None:
    with pytest.raises(Refused, match="refuses connections"):
        async with asyncio.timeout(5):
            await request(session, {"op": "dial", "host": "127.0.0.1", "port": free_port()})


async def test_unreachable(session: Session) -> None:
    with pytest.raises(Unreachable):
        await request(session, {"op": "dial", "host": "255.255.255.255", "port": 80})


async def test_unknown_names(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    with pytest.raises(Missing, match="no-such"):
        await request(session, {"op": "dial", "host": "no-such", "port": 80})


async def test_names_are_tried_address_by_address(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.2", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))]

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        stream, _ = await request(session, {"op": "dial", "host": "two", "port": port})
        assert await stream.readexactly(4) == b"here"
        stream.abort()


async def test_silence_is_a_timeout(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "DIAL_TIMEOUT", 0.2)
    with socket.socket() as full:  # a listener whose queue is full drops further SYNs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
        try:
            with pytest.raises(TimedOut, match=r"0\.2 s"):
                await request(session, {"op": "dial", "host": "127.0.0.1", "port": address[1]})
        finally:
            for sock in fill:
                sock.close()


@pytest.mark.parametrize(
    "message",
    [{"op": "dial", "host": "127.0.0.1", "port": 70000}, {"op": "dial", "port": 1}, {"op": "dial", "host": "a\0b", "port": 1},
     {"op": "udp", "host": "", "port": 1}, {"op": "listen", "ports": [{"port": "x"}]}, {"op": "listen"},
     {"op": "listen", "ports": [{"port": 1, "protocol": "sctp"}]}, {"op": "mounts"}],
)  # fmt: skip
async def test_malformed_messages_are_refused(session: Session, message: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="malformed message"):
        await request(session, message)


async def test_unknown_operations_are_refused(session: Session) -> None:
    with pytest.raises(Missing, match="'fly'"):
        await request(session, {"op": "fly"})


async def test_datagrams_keep_their_bounds(session: Session) -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            self.transport.sendto(data[::-1] + b"!", address)  # type: ignore[attr-defined]

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        stream, _ = await request(session, {"op": "udp", "host": "127.0.0.1", "port": port})
        sent = [b"abc", b"", b"x" * 60000]
        stream.write(b"".join(map(pack_datagram, sent)))
        reader, found = DatagramReader(), []
        while len(found) < 3:
            found += reader.feed(await stream.read())
        assert found == [part[::-1] + b"!" for part in sent]
        stream.write_eof()
        assert await stream.read() == b""
    finally:
        transport.close()


async def test_an_icmp_error_resets_the_stream(session: Session) -> None:
    stream, answer = await request(session, {"op": "udp", "host": "127.0.0.1", "port": free_port(socket.SOCK_DGRAM)})
    assert answer["ok"]
    stream.write(pack_datagram(b"x"))
    with pytest.raises(ConnectionResetError):
        await stream.read()


async def test_an_idle_flow_is_closed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "UDP_IDLE", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        stream, _ = await request(session, {"op": "udp", "host": "127.0.0.1", "port": silent.getsockname()[1]})
        started = time.monotonic()
        async with asyncio.timeout(5):
            assert await stream.read() == b""
        assert time.monotonic() - started > 0.15
        stream.close()


async def test_ping(session: Session) -> None:
    _, answer = await request(session, {"op": "ping", "host": "127.0.0.1"})
    assert 0 < answer["rtt_ms"] < 500


@pytest.mark.parametrize("way", ["_by_tcp", "_by_udp"])
async def test_one_way_of_asking_is_enough(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    async def forbidden(_: dial.Address) -> bool:
        raise OSError(errno.EPERM, "Operation not permitted")

    for other in {"_by_icmp", "_by_tcp", "_by_udp"} - {way}:
        monkeypatch.setattr(ping, other, forbidden)
    assert 0 < await ping.ping("127.0.0.1") < 1


@pytest.mark.root
def test_ping_by_icmp_where_the_pod_may() -> None:
    code = """if True:
        import asyncio, errno
        from teleagent import ping
        async def forbidden(_):
            raise OSError(errno.EPERM, "Operation not permitted")
        ping._by_tcp = ping._by_udp = forbidden
        for host in ("127.0.0.1", "::1"):
            assert 0 < asyncio.run(ping.ping(host)) < 1
    """
    script = 'ip link set lo up && echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range && exec "$@"'
    subprocess.run(
        ["unshare", "--net", "sh", "-ec", script, "sh", sys.executable, "-c", code],
        check=True, timeout=20, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


async def test_ping_of_nobody(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable):
        await request(session, {"op": "ping", "host": "255.255.255.255"})

    async def silent(_: dial.Address) -> bool:
        await asyncio.sleep(60)
        return True

    monkeypatch.setattr(ping, "PING_TIMEOUT", 0.1)
    for way in ("_by_icmp", "_by_tcp", "_by_udp"):
        monkeypatch.setattr(ping, way, silent)
    with pytest.raises(TimedOut):
        await request(session, {"op": "ping", "host": "127.0.0.1"})


async def test_mounts(session: Session) -> None:
    _, answer = await request(session, {"op": "mounts", "paths": ["/", "/no/such"]})
    assert [mount["exists"] for mount in answer["mounts"]] == [True, False]


def test_net_admin_is_told_from_the_effective_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import builtins

    real = builtins.open
    for capabilities, expected in (("0000000000001000", True), ("00000000a80425fb", False)):
        (tmp_path / "status").write_text(f"Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{capabilities}\n")
        monkeypatch.setattr(builtins, "open", lambda *_: real(tmp_path / "status"))
        assert abilities() == {"net_admin": expected}
        monkeypatch.undo()
