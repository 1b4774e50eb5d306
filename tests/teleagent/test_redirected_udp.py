"""Redirected datagrams."""

from __future__ import annotations

import asyncio
import socket

import pytest

from telewire.messages import DatagramReader
from tests.teleagent.conftest import until
from tests.teleagent.engaged import Copies, Daemon, listen
from tests.teleagent.pod import CLIENT4, CLIENT6, POD4, POD6, Pod, attach

pytestmark = pytest.mark.root
PORT = 5353
UDP = {"port": PORT, "protocol": "udp"}
BOTH = pytest.mark.parametrize(("host", "peer"), [(POD4, CLIENT4), (POD6, CLIENT6)])


@BOTH
async def test_datagrams_reach_the_daemon_and_answers_come_from_where_they_went(pod: Pod, host: str, peer: str) -> None:
    await pod.application_udp(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    assert await pod.client.ask_udp(PORT, b"x", host) == b"app:x"
    stream = await listen(session, UDP)
    for data in (b"hello", b"l" * 40_000, b""):
        assert await pod.client.ask_udp(PORT, data, host) == b"dev:" + data
    assert daemon.messages[0] == {"op": "inbound", "port": PORT, "protocol": "udp", "peer": peer}
    assert len(daemon.messages) == 3
    stream.close()
    await asyncio.sleep(0.2)
    assert await pod.client.ask_udp(PORT, b"x", host) == b"app:x"
    assert "table" not in pod.tables()


async def test_one_client_is_one_flow(pod: Pod) -> None:
    await pod.application_udp(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    await listen(session, UDP)
    with pod.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((POD4, PORT))
        for number in range(50):
            sock.send(b"%d" % number)
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"dev:%d" % number
    assert len(daemon.messages) == 1


@BOTH
@pytest.mark.parametrize("bound", ["::", "pod"])
async def test_refused_flows_go_to_the_application(pod: Pod, host: str, peer: str, bound: str) -> None:
    await pod.application_udp(PORT, bound if bound == "::" else host)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session, behaviour="refuses")
    await listen(session, UDP)
    for _ in range(2):
        assert await pod.client.ask_udp(PORT, b"hello", host) == b"app:hello"
    assert {message["peer"] for message in daemon.messages} == {peer}


async def test_the_agents_death_and_a_lost_link_lead_to_the_application(pod: Pod) -> None:
    await pod.application_udp(PORT)
    agent = await pod.agent()
    session, link = await pod.session(agent)
    daemon = Daemon(session)
    await listen(session, UDP)
    with pod.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((POD4, PORT))

        async def ask(data: bytes) -> bytes:
            sock.send(data)
            async with asyncio.timeout(2):
                return await asyncio.get_running_loop().sock_recv(sock, 100)

        assert await ask(b"1") == b"dev:1"
        link.vanish()
        await asyncio.sleep(0.2)
        assert await ask(b"2") == b"app:2"
        await attach(session, agent)
        await asyncio.sleep(0.2)
        assert await ask(b"3") == b"dev:3"
        assert len(daemon.messages) == 1, "the flow waited for the link"
        daemon.behaviour = "says nothing"
        with pod.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect((POD4, PORT))
            other.send(b"offered")
            await until(lambda: len(daemon.messages) == 2)
            assert session._link is not None
            session._link.vanish()  # type: ignore[attr-defined]
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(other, 100) == b"app:offered"
            daemon.behaviour = "takes"
            await attach(session, agent)
            await asyncio.sleep(0.2)
            other.send(b"again")
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(other, 100) == b"dev:again"
        agent.kill()
        agent.process.wait()
        assert await ask(b"4") == b"app:4"


@BOTH
async def test_taps(pod: Pod, host: str, peer: str) -> None:
    await pod.application_udp(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    tap = await copies.listen(session, UDP)
    with pod.client.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, PORT))
        for data in (b"one", b"two" * 9000):
            sock.send(data)
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(sock, 65535) == b"app:" + data
    await until(lambda: copies.got and DatagramReader().feed(bytes(copies.got[0])) == [b"one", b"two" * 9000])
    assert copies.messages == [{"op": "tap", "port": PORT, "protocol": "udp", "peer": peer}]
    tap.close()
    await until(lambda: copies.streams[0]._is_lost)
    assert await pod.client.ask_udp(PORT, b"x", host) == b"app:x"
    assert len(copies.messages) == 1


@BOTH
async def test_a_tap_outside_an_intercept(pod: Pod, host: str, peer: str) -> None:
    await pod.application_udp(PORT)
    outer, inner = await pod.agent(), await pod.agent()
    outside, _ = await pod.session(outer)
    inside, _ = await pod.session(inner)
    copies, _daemon = Copies(outside), Daemon(inside)
    await copies.listen(outside, UDP, slot=2)
    await listen(inside, UDP)
    assert await pod.client.ask_udp(PORT, b"x", host) == b"dev:x"
    await until(lambda: copies.messages)
    inner.kill()
    inner.process.wait()
    assert await pod.client.ask_udp(PORT, b"x", host) == b"app:x"
    outer.kill()
    outer.process.wait()
    assert await pod.client.ask_udp(PORT, b"x", host) == b"app:x"


async def test_a_daemon_that_never_reads_does_not_hold_datagrams_up(pod: Pod) -> None:
    await pod.application_udp(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session, "never reads")
    await copies.listen(session, UDP)
    with pod.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((POD4, PORT))
        for number in range(200):
            data = b"%d," % number + bytes(8000)
            sock.send(data)
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(sock, 65535) == b"app:" + data
    await until(lambda: copies.figures.get("lost") == 1)
