"""DNS from a container's question to the pod's name server and back: real sockets, a real agent, a name server of a few names."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.update
import pytest

from teleagent.agent import Agent
from teleagent.nameserver import Relay
from teledaemon import nameserver
from teledaemon.nameserver import local_nameservers
from telewire.errors import Unavailable
from telewire.session import Session, SessionLost
from tests.teledaemon.agent_link import open_session
from tests.teledaemon.conftest import free_port
from tests.teledaemon.dns_world import SEARCH, Message, Names, World

BACKEND = "backend.default.svc.cluster.local."
BIG = [f'"{number:03d}{"x" * 200}"' for number in range(15)]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    port = free_port()
    monkeypatch.setattr(nameserver, "PORT", port)
    monkeypatch.setattr(nameserver, "LOCAL_TIMEOUT", 0.5)
    upstream = free_port()
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    agent = Agent()
    agent._relay = Relay(str(tmp_path / "resolv.conf"), upstream)
    sock = socket.create_server(("127.0.0.1", 0))
    await agent.start(sock)
    cluster, local = Names(upstream), Names(free_port())
    real = dns.asyncquery.udp_with_fallback
    monkeypatch.setattr(dns.asyncquery, "udp_with_fallback", functools.partial(real, port=local.port))
    closers = [await cluster.serve("127.0.0.1"), await local.serve("127.0.0.2")]
    made = World(await open_session(socket.create_connection(sock.getsockname())), cluster, local, port)
    cluster.records = {
        (BACKEND, "A"): ["10.96.0.7"],
        ("www.example.com.", "A"): ["192.0.2.80"],
        ("big.test.", "TXT"): BIG,
    }
    local.records = {("www.example.com.", "A"): ["192.0.2.99"]}
    await made.server.serve("127.0.0.1")
    yield made
    made.server.close()
    made.dns.close()
    made.session.close()
    await agent.close()
    for close in closers:
        close()
    await asyncio.sleep(0.02)


def texts(answer: Message) -> list[str]:
    return [f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {one}" for rrset in answer.answer for one in rrset]


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_service_is_found_by_its_bare_name(world: World, tcp: bool) -> None:
    answer = await world.ask("backend", tcp=tcp)
    assert texts(answer) == [f"backend. CNAME {BACKEND}", f"{BACKEND} A 10.96.0.7"]
    assert answer.flags & dns.flags.RA


async def test_a_whole_name_is_asked_for_as_it_stands(world: World) -> None:
    assert texts(await world.ask(BACKEND)) == [f"{BACKEND} A 10.96.0.7"]
    assert world.cluster.asked == [(BACKEND, "A")]


async def test_the_answer_bears_the_case_of_the_question(world: World) -> None:
    assert texts(await world.ask("BackEnd.Default.svc.cluster.LOCAL.")) == [
        "BackEnd.Default.svc.cluster.LOCAL. A 10.96.0.7"
    ]
    response = await world.resolver.resolve(dns.message.make_query(BACKEND.upper(), "A"))
    assert [str(rrset.name) for rrset in response.answer] == [BACKEND.upper()]
    assert texts(await world.ask("BACKend"))[0] == f"BACKend. CNAME {BACKEND}"


async def test_the_search_list_comes_before_the_name_itself(world: World) -> None:
    assert texts(await world.ask("www.example.com")) == ["www.example.com. A 192.0.2.80"]
    assert {name for name, _ in world.cluster.asked[:3]} == {f"www.example.com.{domain}." for domain in SEARCH}
    world.cluster.records["www.example.com.svc.cluster.local.", "A"] = ["10.96.0.9"]
    world.resolver.forget()
    assert texts(await world.ask("www.example.com"))[1] == "www.example.com.svc.cluster.local. A 10.96.0.9"
    world.resolver.ndots = 1
    assert texts(await world.ask("www.example.com")) == ["www.example.com. A 192.0.2.80"]


async def test_no_such_name(world: World) -> None:
    for name in ("nothing", "nothing.example.com", "nothing.default.svc.cluster.local."):
        answer = await world.ask(name)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NXDOMAIN, [])
    assert ("nothing.", "A") not in world.cluster.asked
    assert world.local.asked == []


async def test_a_name_without_such_a_record_is_no_missing_name(world: World) -> None:
    for name in ("backend", BACKEND):
        answer = await world.ask(name, "AAAA")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


async def test_a_long_answer_is_cut_for_udp_and_whole_by_tcp(world: World) -> None:
    answer = await world.ask("big.test.", "TXT")
    assert answer.flags & dns.flags.TC
    assert len(answer.to_wire()) <= 512
    whole = await world.ask("big.test.", "TXT", tcp=True)
    assert not whole.flags & dns.flags.TC
    assert sorted(text.split()[-1] for text in texts(whole)) == BIG
    large = await world.ask(dns.message.make_query("big.test.", "TXT", use_edns=0, payload=4096))
    assert not large.flags & dns.flags.TC
    assert len(texts(large)) == len(BIG)


async def test_several_questions_on_one_connection(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    for number, name in enumerate(("backend.", BACKEND, "nothing."), 1):
        raw = dns.message.make_query(name, "A", id=number).to_wire()
        writer.write(len(raw).to_bytes(2, "big") + raw)
    for number in (1, 2, 3):
        raw = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert dns.message.from_wire(raw).id == number
    writer.write(b"\0\3abc")
    assert await reader.read() == b""  # what is no message ends it
    writer.close()


async def test_many_at_once(world: World) -> None:
    names = [f"n{number}.default.svc.cluster.local." for number in range(200)]
    for number, name in enumerate(names):
        world.cluster.records[name, "A"] = [f"10.96.1.{number}"]
    answers = await asyncio.gather(*(world.ask(name) for name in names))
    assert [texts(one) for one in answers] == [[f"{name} A 10.96.1.{number}"] for number, name in enumerate(names)]


async def test_answers_are_kept_for_a_while(world: World) -> None:
    for _ in range(3):
        await world.ask(BACKEND)
        await world.ask("nothing.cluster.local.")
    assert len(world.cluster.asked) == 2
    world.resolver.forget()
    await world.ask(BACKEND)
    assert len(world.cluster.asked) == 3
    world.cluster.ttl = 0
    world.resolver.forget()
    await world.ask(BACKEND)
    await world.ask(BACKEND)
    assert len(world.cluster.asked) == 5


async def test_a_failure_is_told_and_not_kept(world: World) -> None:
    world.cluster.failing = {BACKEND}
    for name in ("backend", BACKEND):
        assert (await world.ask(name)).rcode() == dns.rcode.SERVFAIL
    world.cluster.failing = set()
    for name in ("backend", BACKEND):
        assert (await world.ask(name)).rcode() == dns.rcode.NOERROR
    assert world.local.asked == []  # the cluster's own names are nobody else's business


async def test_the_local_name_server_answers_what_the_clusters_cannot_look_up(world: World) -> None:
    world.cluster.failing = {"www.example.com."}
    assert texts(await world.ask("www.example.com")) == ["www.example.com. A 192.0.2.99"]


async def test_without_a_cluster_the_local_name_server_answers(world: World) -> None:
    def none() -> Session:
        raise SessionLost("the daemon is not connected to a cluster")

    world.dns._session = none
    world.resolver.search = []
    assert texts(await world.ask("www.example.com")) == ["www.example.com. A 192.0.2.99"]
    assert (await world.ask("backend")).rcode() == dns.rcode.NXDOMAIN


async def test_the_way_to_the_cluster_is_found_again(world: World) -> None:
    await world.ask(BACKEND)
    assert world.dns._stream is not None
    world.dns._stream.abort()
    world.resolver.forget()
    assert texts(await world.ask(BACKEND)) == [f"{BACKEND} A 10.96.0.7"]
    world.session.close()
    world.resolver.forget()
    assert (await world.ask(BACKEND)).rcode() == dns.rcode.SERVFAIL


async def test_what_is_no_plain_question_is_answered_so(world: World) -> None:
    status = dns.message.make_query("backend.", "A")
    status.set_opcode(dns.opcode.STATUS)
    chaos = dns.message.make_query("version.bind.", "TXT", "CH")
    none = dns.message.make_query("backend.", "A")
    none.question = []
    update = dns.update.UpdateMessage("cluster.local.")
    update.add("x", 1, "A", "10.0.0.1")
    expected = [dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.NOTIMP]
    for query, rcode in zip((status, chaos, none, update), expected, strict=True):
        assert (await world.ask(query)).rcode() == rcode
    assert world.cluster.asked == []


async def test_rubbish_gets_no_answer_and_does_no_harm(world: World) -> None:
    answers: list[bytes] = []
    response = dns.message.make_response(dns.message.make_query("backend.", "A")).to_wire()
    question = dns.message.make_query("backend.", "A").to_wire()
    for raw in (b"", b"x", question[:-1], question + b"\0", bytes(12)[:11], response, b"\xff" * 60):
        world.server.answer(raw, answers.append)
    async with asyncio.timeout(5):
        await asyncio.gather(*world.server._tasks)
    assert answers == []
    assert (await world.ask("backend")).rcode() == dns.rcode.NOERROR


async def test_addresses_come_and_go(world: World) -> None:
    await world.server.serve("127.0.0.1")
    await world.server.serve("127.0.0.9")
    query = dns.message.make_query(BACKEND, "A")
    assert await dns.asyncquery.udp(query, "127.0.0.9", port=world.port, timeout=5)
    world.server.unserve("127.0.0.9")
    world.server.unserve("127.0.0.9")
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.9", world.port)
    assert await world.ask(BACKEND)
    await world.server.serve("127.0.0.9")
    assert await dns.asyncquery.tcp(query, "127.0.0.9", port=world.port, timeout=5)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_that_is_taken_is_told(world: World, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.8", world.port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        with pytest.raises(Unavailable, match=r"DNS cannot be served on 127\.0\.0\.8: .*in use") as caught:
            await world.server.serve("127.0.0.8")
        assert "\n" not in str(caught.value)
    await asyncio.sleep(0.01)
    await world.server.serve("127.0.0.8")


def test_the_engines_name_servers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# nameserver 1.1.1.1\nnameserver 192.0.2.1\nsearch a b\nnameserver\nnameserver 2001:db8::1 x\n\n")
    assert local_nameservers(str(path)) == ["192.0.2.1", "2001:db8::1"]
