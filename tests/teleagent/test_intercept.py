"""Ports that are redirected to the daemon: real nftables in namespaces of their own, a real agent."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from pathlib import Path

import pytest

from telewire.messages import request
from tests.teleagent.conftest import until
from tests.teleagent.engaged import PORT, Daemon, Hammer, failures, listen, who
from tests.teleagent.pod import CLIENT4, CLIENT6, POD4, POD6, Pod, attach
from tests.teleagent.test_probes import PROBE

pytestmark = pytest.mark.root


@pytest.mark.parametrize(("host", "peer"), [(POD4, CLIENT4), (POD6, CLIENT6)])
async def test_connections_reach_the_daemon(pod: Pod, host: str, peer: str) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    assert await pod.client.ask(PORT, host=host) == b"app:hello"
    stream = await listen(session, PORT)
    data = bytes(range(256)) * 5000
    assert await pod.client.ask(PORT, data, host) == b"dev:" + data
    assert daemon.messages == [{"op": "inbound", "port": PORT, "protocol": "tcp", "peer": peer}]
    assert await pod.pod.ask(PORT, host="::1" if ":" in host else "127.0.0.1") == b"app:hello"
    stream.close()
    await asyncio.sleep(0.2)
    assert await pod.client.ask(PORT, host=host) == b"app:hello"
    assert "table" not in pod.tables()


async def test_the_agents_death_loses_no_connection(pod: Pod) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    Daemon(session)
    await listen(session, PORT)
    hammer = Hammer(pod)
    await asyncio.sleep(1)
    asked = time.monotonic()
    agent.kill()
    agent.process.wait()
    dead = time.monotonic()
    await asyncio.sleep(1)
    answers = await hammer.stop()
    broken = failures(answers)
    assert all(answer.began < dead and answer.ended > asked for answer in broken), "only what the agent held"
    assert who(answers, 0, asked) == {b"dev:"}
    assert who(answers, dead, math.inf) == {b"app:"}
    # The next agent clears the dead one's table away.
    assert pod.tables().count("table inet") == 1
    session, _ = await pod.session(await pod.agent())
    Daemon(session)
    await listen(session, PORT)
    assert await pod.client.ask(PORT) == b"dev:hello"
    assert pod.tables().count("table inet") == 1


async def test_a_frozen_agent_is_passed_by_within_two_seconds(pod: Pod) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    Daemon(session)
    await listen(session, PORT)
    assert await pod.client.ask(PORT) == b"dev:hello"
    agent.kill(signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        while True:
            try:
                if await pod.client.ask(PORT, seconds=0.1) == b"app:hello":
                    break
            except TimeoutError:
                assert time.monotonic() - frozen < 4
        took = time.monotonic() - frozen
        print(f"application after {took:.2f} s")
        assert 1 < took < 3
    finally:
        agent.kill(signal.SIGCONT)


async def test_a_silent_link_gives_the_ports_to_the_application_until_it_is_back(pod: Pod) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, link = await pod.session(agent)
    daemon = Daemon(session)
    await listen(session, PORT)
    reader, writer = await pod.client.connect(POD4, PORT)
    writer.write(b"before")
    await until(lambda: len(daemon.streams) == 1)
    hammer = Hammer(pod)
    await asyncio.sleep(0.5)
    cut = time.monotonic()
    link.silence()
    await asyncio.sleep(2.5)
    assert not session.connected
    back = time.monotonic()
    await attach(session, agent)
    await asyncio.sleep(0.5)
    answers = await hammer.stop()
    assert failures(answers) == []
    assert who(answers, cut + 1.6, back) == {b"app:"}
    assert who(answers, back + 0.2, math.inf) == {b"dev:"}
    assert who(answers, 0, cut) == {b"dev:"}
    writer.write(b" and after")
    writer.write_eof()
    assert await reader.read() == b"dev:before and after", "a joined stream waits for the link"
    writer.close()


async def test_what_was_offered_when_the_link_vanishes_goes_to_the_application(pod: Pod) -> None:
    await pod.application(PORT)
    session, link = await pod.session(await pod.agent())
    daemon = Daemon(session, behaviour="says nothing")
    await listen(session, PORT)
    asked = asyncio.create_task(pod.client.ask(PORT, b"z" * 300_000))
    await until(lambda: daemon.messages)
    assert not asked.done()
    link.vanish()
    assert await asked == b"app:" + b"z" * 300_000
    assert await pod.client.ask(PORT) == b"app:hello"


async def test_the_session_loss_gives_everything_back(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session, behaviour="says nothing")
    await listen(session, PORT)
    asked = asyncio.create_task(pod.client.ask(PORT))
    await until(lambda: daemon.messages)
    session.close()
    assert await asked == b"app:hello"


@pytest.mark.parametrize("host", [POD4, POD6])
async def test_refused_connections_go_to_the_application(pod: Pod, host: str) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session, behaviour="refuses")
    await listen(session, PORT)
    data = b"q" * 2_000_000
    assert await pod.client.ask(PORT, data, host) == b"app:" + data
    assert len(daemon.messages) == 1


async def test_an_application_on_the_pods_address_only(pod: Pod) -> None:
    await pod.application(PORT, POD4)
    session, _ = await pod.session(await pod.agent())
    Daemon(session, behaviour="refuses")
    await listen(session, PORT)
    assert await pod.client.ask(PORT) == b"app:hello"


async def test_no_application_is_a_reset(pod: Pod) -> None:
    session, _ = await pod.session(await pod.agent())
    Daemon(session, behaviour="refuses")
    await listen(session, PORT)
    with pytest.raises(ConnectionResetError):
        await pod.client.ask(PORT)


async def test_probes_go_to_the_application(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    await listen(session, {"port": PORT, "probes": ["/healthz"]})
    assert await pod.client.ask(PORT, PROBE) == b"app:" + PROBE
    assert daemon.messages == []
    other = PROBE.replace(b"kube-probe", b"curl")
    assert await pod.client.ask(PORT, other) == b"dev:" + other
    _, writer = await pod.client.connect(POD4, PORT)  # a probe by TCP
    writer.close()
    assert await pod.client.ask(PORT) == b"dev:hello"


async def test_established_connections_are_left_alone(pod: Pod) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    daemon = Daemon(session)
    old = await pod.client.connect(POD4, PORT)
    old[1].write(b"one ")
    stream = await listen(session, PORT)
    during = await pod.client.connect(POD4, PORT)
    during[1].write(b"one ")
    await until(lambda: daemon.streams)
    refused = await pod.client.connect(POD4, PORT)
    await until(lambda: len(daemon.streams) == 2)
    stream.close()
    await asyncio.sleep(0.2)
    assert "table" not in pod.tables()
    for (reader, writer), name in ((old, b"app:"), (during, b"dev:"), (refused, b"dev:")):
        writer.write(b"two")
        writer.write_eof()
        assert (await reader.read()).startswith(name)
        writer.close()
    assert await pod.client.ask(PORT) == b"app:hello"


async def test_an_application_can_start_again_meanwhile(pod: Pod) -> None:
    server = await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    await listen(session, PORT)
    reader, writer = await pod.client.connect(POD4, PORT)
    await until(lambda: daemon.streams)
    server.close()
    await asyncio.sleep(0.05)
    await pod.application(PORT)
    writer.write_eof()
    assert await reader.read() == b"dev:"
    writer.close()


async def test_several_ports_and_their_return_one_by_one(pod: Pod) -> None:
    for port in (PORT, PORT + 1, PORT + 2):
        await pod.application(port)
    session, _ = await pod.session(await pod.agent())
    daemon = Daemon(session)
    first = await listen(session, PORT, PORT + 1)
    second = await listen(session, PORT + 2)
    assert pod.tables().count("table inet") == 1
    for port in (PORT, PORT + 1, PORT + 2):
        assert await pod.client.ask(port) == b"dev:hello"
    assert [message["port"] for message in daemon.messages] == [PORT, PORT + 1, PORT + 2]
    first.close()
    await asyncio.sleep(0.2)
    assert await pod.client.ask(PORT) == b"app:hello"
    assert await pod.client.ask(PORT + 2) == b"dev:hello"
    second.abort()
    await asyncio.sleep(0.2)
    assert await pod.client.ask(PORT + 2) == b"app:hello"
    assert "table" not in pod.tables()


async def test_sigterm_leaves_nothing(pod: Pod) -> None:
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    Daemon(session)
    await listen(session, PORT)
    agent.kill(signal.SIGTERM)
    assert await asyncio.to_thread(agent.process.wait, 5) == 0
    assert "table" not in pod.tables()


async def test_a_live_sessions_port_is_not_taken_over_but_a_dead_ones_is(pod: Pod) -> None:
    agent = await pod.agent()
    first, link = await pod.session(agent)
    second, _ = await pod.session(agent)
    Daemon(first, b"mid:")
    Daemon(second)
    await listen(first, PORT)
    _, answer = await request(second, {"op": "listen", "ports": [{"port": PORT}], "mode": "intercept"})
    assert "another connected session" in answer["failed"][0]["text"]
    assert await pod.client.ask(PORT) == b"mid:hello"
    link.vanish()
    await asyncio.sleep(0.2)
    await listen(second, PORT)
    assert await pod.client.ask(PORT) == b"dev:hello"


async def test_without_the_capability_each_port_is_told_why(pod: Pod) -> None:
    agent = await pod.agent(
        before=("setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw")
    )
    session, _ = await pod.session(agent)
    assert session.hello["abilities"] == {"net_admin": False}
    _, answer = await request(
        session, {"op": "listen", "ports": [{"port": PORT}, {"port": 53, "protocol": "udp"}], "mode": "intercept"}
    )
    assert [(each["port"], each["protocol"]) for each in answer["failed"]] == [(PORT, "tcp"), (53, "udp")]
    assert all("NET_ADMIN" in each["text"] for each in answer["failed"])


async def test_senseless_messages(pod: Pod) -> None:
    session, _ = await pod.session(await pod.agent())
    for fields in ({"mode": "steal"}, {"mode": "intercept", "slot": 16}, {"mode": "wiretap", "slot": -1}):
        with pytest.raises(Exception, match="malformed"):
            await request(session, {"op": "listen", "ports": [{"port": PORT}], **fields})


async def test_a_vanished_table_is_made_again(pod: Pod) -> None:
    await pod.application(PORT)
    session, _ = await pod.session(await pod.agent())
    Daemon(session)
    await listen(session, PORT)
    pod.pod.run("nft", "flush", "ruleset")
    assert await pod.client.ask(PORT) == b"app:hello"
    await asyncio.sleep(0.8)
    assert await pod.client.ask(PORT) == b"dev:hello"


async def test_a_pod_without_ipv6(pod: Pod) -> None:
    pod.pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    await pod.application(PORT, "0.0.0.0")
    session, _ = await pod.session(await pod.agent())
    Daemon(session)
    stream = await listen(session, PORT, {"port": 53, "protocol": "udp"})
    assert await pod.client.ask(PORT) == b"dev:hello"
    assert await pod.client.ask_udp(53, b"x") == b"dev:x"
    stream.close()
    await asyncio.sleep(0.2)
    assert await pod.client.ask(PORT) == b"app:hello"


async def test_several_listens_at_once(pod: Pod) -> None:
    session, _ = await pod.session(await pod.agent())
    Daemon(session)
    await asyncio.gather(*(listen(session, PORT + number, slot=number % 3) for number in range(9)))
    for number in range(9):
        assert await pod.client.ask(PORT + number) == b"dev:hello"


async def test_it_stays_small(pod: Pod) -> None:
    """KiB of an agent that redirects: at rest, and what thousands of connections leave behind."""
    await pod.application(PORT)
    agent = await pod.agent()
    session, _ = await pod.session(agent)
    daemon = Daemon(session)
    await listen(session, PORT)
    await asyncio.sleep(1)
    idle = agent.resident

    async def ask(times: int) -> int:
        for _ in range(times // 20):
            assert len(await asyncio.gather(*(pod.client.ask(PORT) for _ in range(20)))) == 20
            daemon.messages.clear(), daemon.streams.clear()
        return agent.resident

    first = await ask(1000)
    daemon.behaviour = "refuses"
    second = await ask(1000)
    descriptors = len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))
    print(f"{idle} KiB idle, {first} after 1,000 connections, {second} after 1,000 more; {descriptors} descriptors")
    assert idle < 32 * 1024
    assert second < idle + 3 * 1024
    assert descriptors < 40
