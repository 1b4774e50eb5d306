from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from teleagent import arrivals
from teleagent.agent import Agent
from telewire.messages import DatagramReader, pack_datagram, read_message, refuse, request, send_message
from telewire.session import Session
from telewire.stream import Stream
from tests.teleagent.conftest import free_port, until
from tests.teleagent.test_probes import PROBE

Sessions = Callable[[], Awaitable[Session]]


class Daemon:
    """Takes the inbound streams of a session: refuses them, or answers the bytes reversed."""

    def __init__(self, session: Session, *, takes: bool = True) -> None:
        self.takes = takes
        self.messages: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[None]] = []
        session.on_stream = lambda stream: self.tasks.append(asyncio.create_task(self._serve(stream)))

    async def _serve(self, stream: Stream) -> None:
        message = await read_message(stream)
        self.messages.append(message)
        if not self.takes:
            refuse(stream, "refused", "nobody")
            return
        send_message(stream, {"ok": True})
        with contextlib.suppress(ConnectionError):
            if message["protocol"] == "tcp":
                whole = b""
                while data := await stream.read():
                    whole += data
                stream.write(whole[::-1])
                stream.close()
                return
            reader = DatagramReader()
            while data := await stream.read():
                for datagram in reader.feed(data):
                    stream.write(pack_datagram(datagram[::-1]))


async def listen(session: Session, port: int, protocol: str = "tcp", **fields: Any) -> tuple[Stream, list[Any]]:
    hold = fields.pop("hold", False)
    ports = [{"port": port, "protocol": protocol, **fields}]
    stream, answer = await request(session, {"op": "listen", "ports": ports, "hold": hold})
    return stream, answer["failed"]


async def ask(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_connections_are_handed_on(session: Session, host: str) -> None:
    daemon, port = Daemon(session), free_port()
    _, failed = await listen(session, port)
    assert failed == []
    data = bytes(range(256)) * 4000
    assert await ask(port, data, host) == data[::-1]
    assert daemon.messages == [{"op": "inbound", "port": port, "protocol": "tcp", "peer": host}]


async def test_a_server_that_speaks_first_is_not_held_up(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    async def greet(stream: Stream) -> None:
        await read_message(stream)
        send_message(stream, {"ok": True})
        stream.write(b"220 hello")

    tasks = []
    session.on_stream = lambda stream: tasks.append(asyncio.create_task(greet(stream)))
    monkeypatch.setattr(arrivals, "HEAD_TIMEOUT", 60)
    await listen(session, port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        assert await reader.readexactly(9) == b"220 hello"
    writer.close()


async def test_refused_connections_are_reset(session: Session) -> None:
    port = free_port()
    Daemon(session, takes=False)
    await listen(session, port)
    with pytest.raises(ConnectionResetError):
        await ask(port, b"x")


async def test_a_silent_daemon_is_not_waited_for_for_ever(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "ANSWER_TIMEOUT", 0.2)
    port = free_port()
    kept: list[Stream] = []
    session.on_stream = kept.append
    await listen(session, port)
    with pytest.raises(ConnectionResetError):
        await ask(port, b"x")
    with pytest.raises(ConnectionResetError):
        await kept[0].read(), await kept[0].read()


async def test_probes_are_answered_and_others_replayed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, port = Daemon(session), free_port()
    await listen(session, port, probes=["/healthz"])
    assert (await ask(port, PROBE)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert daemon.messages == []
    other = PROBE.replace(b"kube-probe", b"curl")
    assert await ask(port, other) == other[::-1]
    monkeypatch.setattr(arrivals, "HEAD_TIMEOUT", 60)  # no wait for what cannot be a probe
    assert await ask(port, b"\x16\x03\x01") == b"\x01\x03\x16"
    assert len(daemon.messages) == 2


async def test_a_probe_in_small_pieces(session: Session) -> None:
    Daemon(session)
    port = free_port()
    await listen(session, port, probes=["/"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for start in range(0, len(PROBE), 20):
        writer.write(PROBE[start : start + 20])
        await asyncio.sleep(0.005)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_silent_client_of_a_probed_port_is_handed_on(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "HEAD_TIMEOUT", 0.1)
    daemon, port = Daemon(session), free_port()
    await listen(session, port, probes=["/"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HT")
    await until(lambda: daemon.messages)
    writer.write(b"TP/1.1")
    writer.write_eof()
    assert await reader.read() == b"GET / HTTP/1.1"[::-1]
    writer.close()


async def test_a_large_head_is_replayed_whole(session: Session) -> None:
    Daemon(session)
    port = free_port()
    await listen(session, port, probes=["/"])
    request_ = b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n" + b"body" * 50_000
    assert await ask(port, request_) == request_[::-1]


async def test_probes_are_not_looked_for_on_other_ports(session: Session) -> None:
    Daemon(session)
    port = free_port()
    await listen(session, port)
    assert await ask(port, PROBE) == PROBE[::-1]


async def test_the_streams_end_gives_the_port_back(session: Session) -> None:
    Daemon(session)
    port = free_port()
    stream, _ = await listen(session, port)
    assert await connects(port)
    stream.close()
    await asyncio.sleep(0.1)
    assert not await connects(port)
    socket.create_server(("0.0.0.0", port)).close()


async def test_the_sessions_loss_gives_the_port_back_unless_it_is_held(session: Session, agent: Agent) -> None:
    Daemon(session)
    port, held = free_port(), free_port()
    await listen(session, port)
    await listen(session, held, probes=["/"], hold=True)
    agent.server.sessions[session.id].close("not resumed in time")
    await asyncio.sleep(0.1)
    assert not await connects(port)
    assert (await ask(held, PROBE)).startswith(b"HTTP/1.1 200")


async def test_held_ports_answer_probes_and_reset_others_until_the_next_listen(session: Session) -> None:
    daemon, port = Daemon(session), free_port()
    stream, _ = await listen(session, port, probes=["/"], hold=True)
    stream.abort()
    await asyncio.sleep(0.1)
    assert (await ask(port, PROBE)).startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionResetError):
        await ask(port, b"POST / HTTP/1.1\r\n\r\n")
    assert daemon.messages == []
    stream, failed = await listen(session, port, hold=False)
    assert failed == []
    assert await ask(port, PROBE) == PROBE[::-1], "the new listen names no probes"
    stream.close()
    await asyncio.sleep(0.1)
    assert not await connects(port), "and does not hold"


async def test_what_cannot_be_had_is_told_and_the_rest_is_had(session: Session) -> None:
    Daemon(session)
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [{"port": taken.getsockname()[1]}, {"port": port}]
        _, answer = await request(session, {"op": "listen", "ports": ports})
    (failure,) = answer["failed"]
    assert (failure["port"], failure["protocol"]) == (ports[0]["port"], "tcp")
    assert "in use" in failure["text"]
    assert await ask(port, b"ab") == b"ba"


async def test_half_a_port_is_given_back(session: Session) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, failed = await listen(session, port)
        assert [failure["port"] for failure in failed] == [port]
        socket.create_server(("0.0.0.0", port)).close()


async def test_a_port_of_a_live_session_is_not_taken_over_but_a_dead_ones_is(sessions: Sessions) -> None:
    first, second = await sessions(), await sessions()
    Daemon(first)
    daemon, port = Daemon(second), free_port()
    await listen(first, port)
    _, failed = await listen(second, port)
    assert "another connected session" in failed[0]["text"]
    link = first._link
    assert link is not None
    link.close()
    await asyncio.sleep(0.1)
    _, failed = await listen(second, port)
    assert failed == []
    assert await ask(port, b"ab") == b"ba"
    assert len(daemon.messages) == 1


async def test_datagrams(session: Session) -> None:
    daemon, port = Daemon(session), free_port(socket.SOCK_DGRAM)
    stream, failed = await listen(session, port, "udp")
    assert failed == []
    loop = asyncio.get_running_loop()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.connect((host, port))
            for datagram in (b"abc", b"d" * 50000, b""):
                await loop.sock_sendall(client, datagram) if datagram else client.send(datagram)
            async with asyncio.timeout(5):
                assert {await loop.sock_recv(client, 65535) for _ in range(3)} == {b"cba", b"d" * 50000, b""}
    assert [(m["protocol"], m["peer"]) for m in daemon.messages] == [("udp", "127.0.0.1"), ("udp", "::1")]
    stream.close()
    await asyncio.sleep(0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("0.0.0.0", port))


async def test_a_flow_that_the_daemon_ends_begins_anew(session: Session) -> None:
    daemon, port = Daemon(session, takes=False), free_port(socket.SOCK_DGRAM)
    await listen(session, port, "udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect(("127.0.0.1", port))
        client.send(b"lost")
        await until(lambda: daemon.messages)
        await asyncio.sleep(0.05)
        daemon.takes = True
        client.send(b"ab")
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"ba"
    assert len(daemon.messages) == 2


async def test_idle_flows_end(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "UDP_IDLE", 0.2)
    daemon, port = Daemon(session), free_port(socket.SOCK_DGRAM)
    await listen(session, port, "udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", port))
        await until(lambda: daemon.tasks)
        started = time.monotonic()
        async with asyncio.timeout(5):
            await daemon.tasks[0]
    assert time.monotonic() - started > 0.1


async def test_a_lost_client_of_the_daemon_loses_its_connection(session: Session) -> None:
    port = free_port()
    streams: list[Stream] = []

    async def take(stream: Stream) -> None:
        await read_message(stream)
        send_message(stream, {"ok": True})
        streams.append(stream)

    tasks = []
    session.on_stream = lambda stream: tasks.append(asyncio.create_task(take(stream)))
    await listen(session, port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: streams)
    streams[0].abort()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
