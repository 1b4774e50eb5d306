from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from teleagent import nameserver
from teleagent.nameserver import Relay, question_of, resolver_configuration, server_failure
from telewire.messages import DatagramReader, pack_datagram
from tests.teleagent.conftest import free_port, until

Answer = Callable[[bytes], "bytes | None"]


def query(name: str, number: int = 1) -> bytes:
    return dns.message.make_query(name, "A", id=number).to_wire()


def echo(message: bytes) -> bytes:
    """An answer that bears the question and nothing else."""
    return message[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + question_of(message)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.asked.append(data)
        answer = self.answer(data)
        if answer is not None:
            self.transport.sendto(answer, address)  # type: ignore[attr-defined]


@asynccontextmanager
async def udp_server(address: str, port: int, answer: Answer) -> AsyncIterator[_Udp]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(answer), local_addr=(address, port)
    )
    yield protocol
    transport.close()


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\n")
    return path


@pytest.fixture
async def relay(resolv_conf: Path) -> AsyncIterator[tuple[Relay, int]]:
    port = free_port()
    made = Relay(str(resolv_conf), port)
    yield made, port
    made.close()
    await asyncio.sleep(0.01)


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# comment\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n"
        "options ndots:5 timeout:1\nnameserver\n"
    )
    assert resolver_configuration(str(path)) == {
        "nameservers": ["10.96.0.10", "fd00::a"],
        "search": ["default.svc.cluster.local", "svc.cluster.local"],
        "ndots": 5,
    }
    assert resolver_configuration(str(tmp_path / "no")) == {"nameservers": [], "search": [], "ndots": 1}


def test_questions() -> None:
    wire = query("a.example.")
    assert question_of(wire) == wire[12:27]
    for cut in range(27):
        assert question_of(wire[:cut]) == b""
    assert question_of(wire[:12] + b"\xc0\x0c" + wire[14:]) == b""


def test_server_failure_is_an_answer_to_the_query() -> None:
    asked = dns.message.make_query("a.example.", "A", use_edns=0)
    answer = dns.message.from_wire(server_failure(asked.to_wire()))
    assert asked.is_response(answer)
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert answer.question == asked.question


async def test_queries_with_the_same_id_do_not_mix(relay: tuple[Relay, int]) -> None:
    made, port = relay
    held: list[bytes] = []

    def hold(message: bytes) -> None:
        held.append(message)

    async with udp_server("127.0.0.1", port, hold) as server:
        tasks = [asyncio.create_task(made.exchange(query(f"n{i}.example.", 7))) for i in range(50)]
        await until(lambda: len(held) == 50)
        assert len({message[:2] for message in held}) == 50
        address = made._upstreams["127.0.0.1"]._socket.getsockname()
        for message in reversed(held):
            server.transport.sendto(echo(message), address)  # type: ignore[attr-defined]
        answers = [dns.message.from_wire(await task) for task in tasks]
    assert [str(answer.question[0].name) for answer in answers] == [f"n{i}.example." for i in range(50)]
    assert {answer.id for answer in answers} == {7}


async def test_a_stale_answer_is_not_taken_for_another(relay: tuple[Relay, int]) -> None:
    made, port = relay
    async with udp_server("127.0.0.1", port, lambda m: echo(m[:2] + query("other.example.")[2:])) as server:
        task = asyncio.create_task(made.exchange(query("mine.example.")))
        await until(lambda: server.asked)
        await asyncio.sleep(0.05)
        assert not task.done()
        server.answer = echo
        answer = dns.message.from_wire(await task)
    assert str(answer.question[0].name) == "mine.example."
    assert answer.rcode() == dns.rcode.NOERROR


async def test_the_next_server_is_asked_when_one_is_silent_or_refuses(
    relay: tuple[Relay, int], resolv_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameserver, "TRY_TIMEOUT", 0.1)
    made, port = relay
    resolv_conf.write_text("nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n")
    async with udp_server("127.0.0.2", port, lambda _: None) as silent, udp_server("127.0.0.3", port, echo) as good:
        answer = dns.message.from_wire(await made.exchange(query("a.example.")))
        assert answer.rcode() == dns.rcode.NOERROR
        assert len(silent.asked) == len(good.asked) == 1


async def test_servfail_when_nobody_answers(relay: tuple[Relay, int], resolv_conf: Path) -> None:
    made, _ = relay
    answer = dns.message.from_wire(await made.exchange(query("a.example.", 5)))
    assert (answer.id, answer.rcode()) == (5, dns.rcode.SERVFAIL)
    resolv_conf.write_text("")
    assert dns.message.from_wire(await made.exchange(query("a.example."))).rcode() == dns.rcode.SERVFAIL


async def test_a_truncated_answer_is_asked_again_by_tcp(relay: tuple[Relay, int]) -> None:
    made, port = relay
    whole = echo(query("a.example.")) + b"\0" * 3000

    async def by_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        asked = await reader.readexactly(size)
        writer.write(pack_datagram(asked[:2] + whole[2:]))
        await writer.drain()
        writer.close()

    def truncated(message: bytes) -> bytes:
        answer = bytearray(echo(message))
        answer[2] |= nameserver.TRUNCATED
        return bytes(answer)

    tcp = await asyncio.start_server(by_tcp, "127.0.0.1", port)
    async with tcp, udp_server("127.0.0.1", port, truncated):
        assert await made.exchange(query("a.example.", 9)) == struct.pack(">H", 9) + whole[2:]


async def test_resolv_conf_is_read_anew_when_it_has_changed(relay: tuple[Relay, int], resolv_conf: Path) -> None:
    made, port = relay
    async with udp_server("127.0.0.1", port, echo) as one, udp_server("127.0.0.2", port, echo) as two:
        await made.exchange(query("a.example."))
        new = resolv_conf.with_suffix(".new")
        new.write_text("nameserver 127.0.0.2\n")
        os.utime(new, ns=(1, 1))
        new.replace(resolv_conf)
        await made.exchange(query("b.example."))
        resolv_conf.unlink()
        await made.exchange(query("c.example."))
    assert (len(one.asked), len(two.asked)) == (1, 2)


async def test_a_stream_of_queries(relay: tuple[Relay, int]) -> None:
    made, port = relay

    class Stream:
        def __init__(self) -> None:
            self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
            self.written = b""
            self.closed = False

        async def read(self) -> bytes:
            return await self.incoming.get()

        def write(self, data: bytes) -> None:
            self.written += data

        def is_closing(self) -> bool:
            return self.closed

        def get_write_buffer_size(self) -> int:
            return 0

        def close(self) -> None:
            self.closed = True

    stream = Stream()
    async with udp_server("127.0.0.1", port, echo):
        task = asyncio.create_task(made.serve(stream))  # type: ignore[arg-type]
        sent = b"".join(pack_datagram(query(f"n{i}.example.", i)) for i in range(20)) + pack_datagram(b"short")
        for start in range(0, len(sent), 7):
            stream.incoming.put_nowait(sent[start : start + 7])
        await until(lambda: len(DatagramReader().feed(stream.written)) == 20)
        stream.incoming.put_nowait(b"")
        await task
    assert stream.closed
    answers = [dns.message.from_wire(answer) for answer in DatagramReader().feed(stream.written)]
    assert {(a.id, str(a.question[0].name)) for a in answers} == {(i, f"n{i}.example.") for i in range(20)}
