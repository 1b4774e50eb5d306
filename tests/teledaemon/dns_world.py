"""A name server of a few names, and the daemon's name server with all that is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from teledaemon.clusterdns import ClusterDns
from teledaemon.nameserver import NameServer, Resolver
from telewire.session import Session

Message = dns.message.Message
SEARCH = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]


class Names(asyncio.DatagramProtocol):
    """A name server with some names; what does not fit into a plain UDP answer is cut. Names in ``failing`` get SERVFAIL."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 30
        self.failing: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    async def serve(self, address: str) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(address, self.port))
        server = await asyncio.start_server(self._tcp, address, self.port)

        def close() -> None:
            transport.close()
            server.close()

        return close

    def answer(self, raw: bytes, limit: int) -> bytes:
        query = dns.message.from_wire(raw)
        question = query.question[0]
        name, kind = str(question.name).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(query)
        if name in self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found := self.records.get((name, kind)):
            answer.answer = [dns.rrset.from_text_list(name, self.ttl, "IN", kind, found)]
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire(max_size=limit, prefer_truncation=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._transport.sendto(self.answer(data, 512), address)  # type: ignore[attr-defined]

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = self.answer(raw, 65535)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()


class World:
    """The daemon's name server with all that is behind it."""

    def __init__(self, session: Session, cluster: Names, local: Names, port: int) -> None:
        self.session, self.cluster, self.local, self.port = session, cluster, local, port
        self.dns = ClusterDns(lambda: self.session)
        self.resolver = Resolver(self.dns, ["127.0.0.3", "127.0.0.2"])  # the first does not answer
        self.resolver.search = list(SEARCH)
        self.server = NameServer(self.resolver)

    async def ask(self, query: Message | str, kind: str = "A", *, tcp: bool = False) -> Message:
        message = dns.message.make_query(query, kind) if isinstance(query, str) else query
        ask: Any = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        answer: Message = await ask(message, "127.0.0.1", port=self.port, timeout=5)
        assert message.is_response(answer)
        return answer
