"""DNS for the containers: their questions, answered by the cluster's DNS as a pod would have them answered (RFC 1035)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from teledaemon.clusterdns import ClusterDns
from teledaemon.search import candidates
from telewire.errors import TeleError, Unavailable

log = logging.getLogger(__name__)

PORT = 53
PLAIN_UDP = 512
LARGEST_UDP = 4096
LOCAL_TIMEOUT = 3.0
TCP_IDLE = 30.0
ALIAS_TTL = 5
MOST_CACHED = 2048
LONGEST_CACHED, NEGATIVE_CACHED = 30.0, 2.0
Answer = dns.message.Message


def local_nameservers(path: str = "/etc/resolv.conf") -> list[str]:
    """Return the name servers that this container was given by its engine."""
    with open(path) as file:
        words = [line.split() for line in file]
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]


class Resolver:
    """Finds answers: in the cache, by the cluster's DNS, and by the local one for names that the cluster's could not look up."""

    def __init__(self, cluster: ClusterDns, local: Sequence[str]) -> None:
        self._cluster = cluster
        self._local = list(local)
        self.search: list[str] = []
        self.ndots = 5
        self._cache: dict[tuple[str, int], tuple[float, Answer]] = {}

    def forget(self) -> None:
        """Empty the cache: another cluster answers."""
        self._cache.clear()

    async def resolve(self, query: Answer) -> Answer:
        """Return the response to ``query``; SERVFAIL if nobody knows."""
        response = dns.message.make_response(query, recursion_available=True)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        if question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        try:
            await self._fill(response, question.name, question.rdtype)
        except (TeleError, dns.exception.DNSException, OSError, TimeoutError) as error:
            log.info("dns: %s %s: %s", question.name, dns.rdatatype.to_text(question.rdtype), error)
            response.set_rcode(dns.rcode.SERVFAIL)
        return response

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses of ``name``, as a pod finds them; none if it has none."""
        found: list[str] = []
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            response = await self.resolve(dns.message.make_query(name, rdtype))
            found += [str(item) for rrset in response.answer if rrset.rdtype == rdtype for item in rrset]
        return found

    async def _fill(self, response: Answer, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        expanded, whole = candidates(name.to_text(), self.search, self.ndots)
        answers = await asyncio.gather(*(self._ask(candidate, rdtype) for candidate in expanded))
        for candidate, answer in zip(expanded, answers, strict=True):
            if answer.rcode() == dns.rcode.NOERROR:
                if answer.answer:
                    alias = dns.rrset.from_text(name, ALIAS_TTL, "IN", "CNAME", candidate)
                    response.answer = [alias, *answer.answer]
                response.authority = answer.authority
                return
        if any(answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) for answer in answers):
            raise Unavailable("the cluster's DNS has failed")
        if whole is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        answer = await self._ask_anybody(whole, rdtype)
        response.set_rcode(answer.rcode())
        response.authority = answer.authority
        # The answer bears the name as it was asked for, its case too: some resolvers compare (draft-vixie-dnsext-dns0x20).
        response.answer = [_renamed(rrset, name) for rrset in answer.answer]

    async def _ask(self, name: str, rdtype: dns.rdatatype.RdataType) -> Answer:
        key = (name, int(rdtype))
        cached = self._cache.get(key)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        answer = await self._cluster.ask(dns.message.make_query(name, rdtype, use_edns=0, payload=LARGEST_UDP))
        self._remember(key, answer)
        return answer

    def _remember(self, key: tuple[str, int], answer: Answer) -> None:
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return
        ttl = min((rrset.ttl for rrset in answer.answer), default=NEGATIVE_CACHED)
        if len(self._cache) >= MOST_CACHED:
            self._cache.clear()
        self._cache[key] = (time.monotonic() + min(float(ttl), LONGEST_CACHED), answer)

    async def _ask_anybody(self, name: str, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Ask the cluster; if it has no way to know, the local name servers, unless the name is the cluster's own."""
        failure: Exception | None = None
        answer = None
        try:
            answer = await self._ask(name, rdtype)
        except TeleError as error:
            failure = error
        if answer is not None and answer.rcode() not in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
            return answer
        if not any(name.endswith("." + domain.rstrip(".") + ".") for domain in self.search):
            with contextlib.suppress(OSError, TimeoutError, dns.exception.DNSException):
                return await self._ask_local(name, rdtype)
        if answer is None:
            raise failure or Unavailable("nobody answers")
        return answer

    async def _ask_local(self, name: str, rdtype: dns.rdatatype.RdataType) -> Answer:
        import dns.asyncquery

        query = dns.message.make_query(name, rdtype)
        for server in self._local:
            with contextlib.suppress(OSError, TimeoutError, dns.exception.DNSException):
                answer, _ = await dns.asyncquery.udp_with_fallback(query, server, timeout=LOCAL_TIMEOUT)
                return answer
        raise OSError("no local name server answers")


def _renamed(rrset: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    if rrset.name != name:
        return rrset
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


class NameServer:
    """Serves a resolver on addresses that come and go, by UDP and TCP."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._serving: dict[str, tuple[asyncio.DatagramTransport, asyncio.Server]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, address: str) -> None:
        """Answer on ``address`` too; no error if it does already. Unavailable if the port is taken."""
        if address in self._serving:
            return
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self.answer), local_addr=(address, PORT))
            try:
                server = await asyncio.start_server(self._tcp, address, PORT)
            except OSError:
                transport.close()
                raise
        except OSError as error:
            raise Unavailable(f"DNS cannot be served on {address}: {error.strerror or error}") from None
        self._serving[address] = (transport, server)

    def unserve(self, address: str) -> None:
        """Answer on ``address`` no more."""
        found = self._serving.pop(address, None)
        if found is not None:
            found[0].close()
            found[1].close()

    def close(self) -> None:
        """Answer nowhere any more."""
        for address in list(self._serving):
            self.unserve(address)
        for task in list(self._tasks):
            task.cancel()

    async def _wire(self, raw: bytes, limit: int) -> bytes | None:
        try:
            query = dns.message.from_wire(raw)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR:
            return None
        response = await self._resolver.resolve(query)
        size = limit if limit == 65535 else min(LARGEST_UDP, max(PLAIN_UDP, query.payload if query.edns >= 0 else 0))
        return response.to_wire(max_size=size, prefer_truncation=True)

    def answer(self, raw: bytes, send: Callable[[bytes], None]) -> None:
        """Answer a datagram."""

        async def work() -> None:
            answer = await self._wire(raw, PLAIN_UDP)
            if answer is not None:
                send(answer)

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    raw = await reader.readexactly(size)
                answer = await self._wire(raw, 65535)
                if answer is None:
                    break
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes, Callable[[bytes], None]], None]) -> None:
        self._answer = answer
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the socket."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Have it answered."""

        def send(answer: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(answer, address)

        self._answer(data, send)
