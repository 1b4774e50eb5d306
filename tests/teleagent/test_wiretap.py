"""Copies for the daemon of what clients send, which never hold the originals up."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import time

import pytest

from telewire.messages import request
from tests.teleagent.conftest import until
from tests.teleagent.engaged import PORT, Copies, Daemon, Hammer, failures, listen
from tests.teleagent.pod import CLIENT4, CLIENT6, POD4, POD6, Pod
from tests.teleagent.test_probes import PROBE

pytestmark = pytest.mark.root


@pytest.mark.parametrize(("host", "peer"), [(POD4, CLIENT4), (POD6, CLIENT6)])
async def test_the_application_answers_and_the_daemon_gets_a_copy(pod: Pod, host: str, peer: str) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    stream = await copies.listen(session, PORT)
    data = bytes(range(256)) * 1500  # within what is kept until the daemon has taken it
    assert await pod.client.ask(PORT, data, host) == b"app:" + data
    await until(lambda: copies.whole)
    assert copies.whole == [data]
    assert copies.messages == [{"op": "tap", "port": PORT, "protocol": "tcp", "peer": peer}]
    await until(lambda: copies.figures == {"copies": 1, "lost": 0})
    stream.close()
    await asyncio.sleep(0.2)
    assert await pod.client.ask(PORT, host=host) == b"app:hello"
    assert len(copies.messages) == 1
    assert "table" not in pod.tables()


async def test_figures_are_told_once_a_second_and_at_the_end(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    stream = await copies.listen(session, PORT)
    hammer = Hammer(pod)
    await asyncio.sleep(2.5)
    total = len(await hammer.stop())
    await asyncio.sleep(0.2)
    stream.write_eof()
    await until(lambda: copies.figures.get("copies") == total)
    await asyncio.sleep(0.2)
    assert copies.figures == {"copies": total, "lost": 0}
    times = [when for when, _ in copies.reports]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap > 0.8 for gap in gaps[:-1])
    assert 3 <= len(copies.reports) <= 6


async def test_a_keep_alive_connection_is_copied_as_it_goes(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    await copies.listen(session, PORT)
    reader, writer = await pod.client.connect(POD4, PORT)
    await until(lambda: copies.streams)
    for number in range(20):
        writer.write(b"%d," % number)
        await asyncio.sleep(0.01)
    writer.write_eof()
    await reader.read()
    writer.close()
    await until(lambda: copies.whole)
    assert copies.whole == [b"".join(b"%d," % number for number in range(20))]


async def test_probes_are_not_copied(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    await copies.listen(session, {"port": PORT, "probes": ["/healthz"]})
    assert await pod.client.ask(PORT, PROBE) == b"app:" + PROBE
    _, writer = await pod.client.connect(POD4, PORT)  # a probe by TCP
    writer.close()
    other = PROBE.replace(b"kube-probe", b"curl")
    for request_ in (other, b"GE", b"\x16\x03\x01" + b"t" * 50_000):
        assert await pod.client.ask(PORT, request_) == b"app:" + request_
        await until(lambda: copies.whole)
        assert copies.whole.pop() == request_
    assert len(copies.messages) == 3


async def throughput(pod: Pod, size: int) -> float:
    """Return the seconds that the application takes to get and return so much."""
    data = bytes(size)
    began = time.monotonic()
    assert len(await pod.client.ask(PORT, data, seconds=60)) == size + 4
    return time.monotonic() - began


@pytest.mark.parametrize("behaviour", ["never reads", "refuses", "resets", "stalls", "vanishes"])
async def test_no_daemon_can_hold_an_original_up(pod: Pod, behaviour: str) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, link = await pod.session(agent)
    copies = Copies(session, behaviour)
    size = 20_000_000
    alone = await throughput(pod, size)
    await copies.listen(session, PORT)
    before = agent.resident
    hammer = Hammer(pod)
    if behaviour == "stalls":
        link.stall()
    reader, writer = await pod.client.connect(POD4, PORT)
    writer.write(b"begun ")
    await asyncio.sleep(0.3)
    if behaviour == "vanishes":
        link.vanish()
    took = await throughput(pod, size)
    print(
        f"{behaviour}: {size / alone / 1e6:.0f} MB/s alone, {size / took / 1e6:.0f} tapped, {before} then {agent.resident} KiB"
    )
    assert took < 5 * alone + 1
    writer.write(b"and ended")
    writer.write_eof()
    assert await reader.read() == b"app:begun and ended"
    writer.close()
    answers = await hammer.stop()
    assert failures(answers) == []
    assert {answer.who for answer in answers} == {b"app:"}
    assert max(answer.ended - answer.began for answer in answers) < 3
    assert agent.resident < before + 24 * 1024
    if behaviour in ("never reads", "refuses", "resets"):
        await until(lambda: copies.figures.get("lost", 0) >= 1)


async def test_copies_share_a_bound(pod: Pod) -> None:
    """Many clients whose copies nobody reads: what is kept for the daemon is bounded, every original is whole."""
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    copies = Copies(session, "never reads")
    await copies.listen(session, PORT)
    data = bytes(480_000)  # a window's worth and nearly all that is kept for one
    before = agent.resident
    answers = await asyncio.gather(*(pod.client.ask(PORT, data, seconds=60) for _ in range(40)))
    assert {len(answer) for answer in answers} == {len(data) + 4}
    await until(lambda: copies.figures.get("lost", 0) >= 20)
    print(f"{before} KiB, then {agent.resident} KiB; {copies.figures}")


async def test_no_application_is_a_reset_and_no_copy(pod: Pod) -> None:
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    await copies.listen(session, PORT)
    with pytest.raises(ConnectionResetError):
        await pod.client.ask(PORT)
    assert copies.messages == []


async def test_a_reset_client_resets_the_applications_connection(pod: Pod) -> None:
    lost: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            await reader.read()
        except ConnectionResetError:
            lost.append(True)
        writer.close()

    server = await asyncio.start_server(serve, sock=pod.pod.listener("", PORT))
    pod.servers.append(server)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    await copies.listen(session, PORT)
    _, writer = await pod.client.connect(POD4, PORT)
    writer.write(b"x")
    await until(lambda: copies.streams)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
    await until(lambda: lost)
    await until(lambda: copies.whole == [b"x"])


async def test_the_end_of_the_tap_ends_copies_not_originals(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    copies = Copies(session)
    stream = await copies.listen(session, PORT)
    reader, writer = await pod.client.connect(POD4, PORT)
    writer.write(b"one ")
    await until(lambda: copies.streams)
    stream.close()
    await until(lambda: copies.streams[0]._is_lost)
    writer.write(b"two")
    writer.write_eof()
    assert await reader.read() == b"app:one two"
    writer.close()


async def test_two_agents_in_a_row(pod: Pod) -> None:
    """A tap outside, an intercept inside; whoever dies, the next one in line gets the next connection."""
    await pod.application(PORT)
    outer, inner = await pod.agent(), await pod.agent()
    outside, _ = await pod.session(outer)
    inside, _ = await pod.session(inner)
    copies, daemon = Copies(outside), Daemon(inside)
    await copies.listen(outside, PORT, slot=3)
    await listen(inside, PORT, slot=0)
    for host in (POD4, POD6):
        assert await pod.client.ask(PORT, host=host) == b"dev:hello"
        await until(lambda: copies.whole)
        assert copies.whole.pop() == b"hello"
    assert len(daemon.messages) == 2
    outer.kill()
    outer.process.wait()
    assert await pod.client.ask(PORT) == b"dev:hello"
    assert len(daemon.messages) == 3
    another = await pod.agent()
    again, _ = await pod.session(another)
    copies = Copies(again)
    await copies.listen(again, PORT, slot=3)
    assert await pod.client.ask(PORT) == b"dev:hello"
    inner.kill()
    inner.process.wait()
    for host in (POD4, POD6):
        assert await pod.client.ask(PORT, host=host) == b"app:hello"
    await until(lambda: len(copies.whole) == 3)
    another.kill()
    another.process.wait()
    assert await pod.client.ask(PORT) == b"app:hello"


async def test_taps_in_a_row_and_in_one_agent(pod: Pod) -> None:
    """Three slots, two of them of one agent, engaged in any order: each sees each connection once."""
    await pod.application(PORT)
    one, two = await pod.agent(), await pod.agent()
    first, _ = await pod.session(one)
    second, _ = await pod.session(two)
    daemon = Daemon(first)
    a, b = Copies(first, intercepts=daemon), Copies(second)
    await listen(first, PORT)
    await a.listen(first, PORT, slot=15)
    await b.listen(second, PORT, slot=7)
    assert await pod.client.ask(PORT) == b"dev:hello"
    await until(lambda: a.whole and b.whole)
    assert (a.whole, b.whole, len(daemon.messages)) == ([b"hello"], [b"hello"], 1)
    assert pod.tables().count("table inet") == 3
    two.kill()
    two.process.wait()
    assert await pod.client.ask(PORT) == b"dev:hello"
    await until(lambda: len(a.whole) == 2)


async def test_malformed_ports_are_refused(pod: Pod) -> None:
    session, _ = await pod.session(await pod.agent())
    with pytest.raises(Exception, match="no port"):
        await request(session, {"op": "listen", "ports": [{"port": 0}], "mode": "wiretap"})


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
async def test_an_agent_that_ends_lets_the_applications_connections_finish(pod: Pod, how: str) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    copies = Copies(session)
    await copies.listen(session, PORT)
    reader, writer = await pod.client.connect(POD4, PORT)
    writer.write(b"one ")
    await until(lambda: copies.got and copies.got[0] == b"one ")
    hammer = Hammer(pod)
    await asyncio.sleep(0.3)
    if how == "SIGTERM":
        agent.kill(signal.SIGTERM)
    else:
        await request(session, {"op": "shutdown"})
    await asyncio.sleep(1)
    assert agent.process.poll() is None
    assert "table" not in pod.tables()
    assert not session.connected
    writer.write(b"two")
    writer.write_eof()
    assert await reader.read() == b"app:one two"
    writer.close()
    assert await asyncio.to_thread(agent.process.wait, 5) == 0
    answers = await hammer.stop()
    assert failures(answers) == []
    assert {answer.who for answer in answers} == {b"app:"}
