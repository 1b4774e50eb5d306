"""The VIF ``tel0``: what the kernel routes to the cluster's subnets is dialled, relayed or answered here.

TCP is left to the kernel (see ``teledaemon.nat``): a SYN is dialled first, and only when the agent has a connection it is written back
to be accepted. UDP and ICMP are read and answered as packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

from teledaemon import nat, packets
from teledaemon.links import Links
from teledaemon.packets import Flow, Packet
from teledaemon.reassembly import Reassembly
from teledaemon.tun import Tun
from teledaemon.udp import UdpFlows
from telewire import names, relay
from telewire.errors import TeleError, Unavailable
from telewire.messages import AgentError, Refused, request
from telewire.session import Session, SessionLost
from telewire.stream import Stream

log = logging.getLogger(__name__)

DEVICE = "tel0"
OWN = {4: "198.18.0.1", 6: "fd00:7e1e::1"}
"""The VIF's own addresses: RFC 2544's range, which no network uses, and a unique local one."""
MTU = 65535
ACCEPT_WITHIN = 10.0
"""Seconds between writing a SYN back and its connection; a client that is gone never makes it."""
DIAL_TIMEOUT = 45.0
"""Seconds; the agent itself gives up after ten, the rest is for a tunnel that is being mended."""
MOST_PINGS = 64
SO_ORIGINAL_DST = 80


def original_target(sock: socket.socket) -> tuple[bytes, int]:
    """Return the packed address and the port that a connection was made to before NAT. OSError if there was none."""
    if sock.family == socket.AF_INET:
        raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return raw[4:8], struct.unpack_from("!H", raw, 2)[0]
    raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return raw[8:24], struct.unpack_from("!H", raw, 2)[0]


class _Accepted(relay.Waiting):
    """A connection that came through the VIF's NAT rule; it is joined to the stream that was dialled for it."""

    def __init__(self, vif: Vif) -> None:
        super().__init__()
        self._vif = vif

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find its stream."""
        super().connection_made(transport)
        self._vif.accepted(cast("asyncio.Transport", transport))


class Vif:
    """The device, its rules and its listener. ``session`` gives the session to dial through, or raises TeleError."""

    def __init__(self, session: Callable[[], Session], links: Links) -> None:
        self._session = session
        self._links = links
        self._tun = Tun(DEVICE)
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._own: dict[int, str] = {}
        self._dialling: set[Flow] = set()
        self._dialled: dict[Flow, tuple[Stream, asyncio.TimerHandle]] = {}
        self._udp = UdpFlows(session, self._send)
        self._reassembly = Reassembly()
        self._pings = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def start(self) -> None:
        """Bring the device up with its addresses, and listen. Unavailable if the kernel refuses."""
        await self._links.up(DEVICE, MTU)
        for version, address in OWN.items():
            try:
                await self._links.add_address(DEVICE, address, 32 if version == 4 else 128)
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                sock = socket.create_server((address, names.VIF_PORT), family=family, backlog=4096)
            except (OSError, Unavailable) as error:
                if version == 6:
                    log.info("no IPv6 through the VIF: %s", error)
                    continue
                raise Unavailable(f"the VIF's listener cannot be opened: {error}") from None
            self._servers.append(await self._loop.create_server(lambda: _Accepted(self), sock=sock))
            self._own[version] = address
        self._loop.add_reader(self._tun.fd, self._readable)

    async def route(self, networks: Iterable[nat.Network]) -> None:
        """Have packets to ``networks`` come to the VIF. Unavailable if the kernel refuses."""
        wanted = [network for network in networks if network.version in self._own]
        await nat.apply(nat.ruleset(DEVICE, self._own, names.VIF_PORT, wanted))
        for network in wanted:
            await self._links.add_route(DEVICE, str(network))

    def close(self) -> None:
        """Remove the device; connections that are joined go on as long as their streams."""
        self._loop.remove_reader(self._tun.fd)
        for server in self._servers:
            server.close()
        self._udp.close()
        for task in list(self._tasks):
            task.cancel()
        for stream, expiry in self._dialled.values():
            expiry.cancel()
            stream.abort()
        self._dialled.clear()
        self._tun.close()

    # Packets.

    def _readable(self) -> None:
        for raw in self._tun.read():
            packet = packets.parse(raw)
            if packet is not None and packet.is_fragment:
                packet = self._reassembly.add(packet, self._loop.time())
            if packet is None or (packet.target[0] >= 0xE0 and packet.version == 4):
                continue
            if packet.protocol == packets.TCP:
                self._tcp(packet)
            elif packet.protocol == packets.UDP:
                flow = packets.flow_of(packet)
                if flow is not None:
                    self._udp.datagram(flow, packet)
            elif packets.is_echo_request(packet):
                self._echo(packet)
            elif packet.protocol not in (packets.ICMP, packets.ICMP6):
                self._send(packets.unreachable(packet, packets.PROTOCOL_UNREACHABLE))

    def _send(self, packet: bytes) -> None:
        if packet[0] >> 4 == 6:
            for piece in packets.fragments6(packet, 1280):
                self._tun.write(piece)
        else:
            self._tun.write(packet)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # TCP.

    def _tcp(self, packet: Packet) -> None:
        flow = packets.flow_of(packet)
        if flow is None:
            return
        flags = packets.tcp_flags(packet)
        if flags & (packets.SYN | packets.ACK | packets.RST | packets.FIN) != packets.SYN:
            if not flags & packets.RST:  # of a connection that the kernel does not know any more
                self._tun.write(packets.refusal(packet))
        elif flow in self._dialled:
            self._tun.write(packet.raw)
        elif flow not in self._dialling:
            self._dialling.add(flow)
            self._spawn(self._dial(flow, packet))

    async def _dial(self, flow: Flow, packet: Packet) -> None:
        try:
            stream, _ = await request(
                self._session(), {"op": "dial", "host": flow.host, "port": flow.target_port}, DIAL_TIMEOUT
            )
        except Refused:
            self._tun.write(packets.refusal(packet))
            return
        except (AgentError, SessionLost, TeleError) as error:
            log.debug("%s:%d: %s", flow.host, flow.target_port, error)
            self._send(packets.unreachable(packet, packets.HOST_UNREACHABLE))
            return
        finally:
            self._dialling.discard(flow)
        self._dialled[flow] = (stream, self._loop.call_later(ACCEPT_WITHIN, self._give_up, flow))
        self._tun.write(packet.raw)

    def _give_up(self, flow: Flow) -> None:
        entry = self._dialled.pop(flow, None)
        if entry is not None:
            entry[0].abort()

    def _take(self, flow: Flow) -> tuple[Stream, asyncio.TimerHandle] | None:
        """Return what was dialled for ``flow``, or for another port of its source.

        Behind the NAT all targets are one address and port. The kernel gives a connection another source port if a second one from the
        same port (also one just closed) would be the same there. Which stream it gets then does not matter: those from one source to one
        target are alike until bytes have passed.
        """
        if flow not in self._dialled:
            ends = (flow.source, flow.target, flow.target_port)
            alike = (one for one in self._dialled if (one.source, one.target, one.target_port) == ends)
            flow = next(alike, flow)
        return self._dialled.pop(flow, None)

    def accepted(self, transport: asyncio.Transport) -> None:
        """Join a connection that the kernel has accepted to the stream that was dialled for it."""
        sock = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        entry = None
        with contextlib.suppress(
            OSError
        ):  # nobody's NAT brought it here: no original target, or one that was not dialled
            family = socket.AF_INET if ":" not in peer[0] else socket.AF_INET6
            target, port = original_target(sock)
            entry = self._take(Flow(socket.inet_pton(family, peer[0]), peer[1], target, port))
        if entry is None:
            relay.reset(transport)
            return
        stream, expiry = entry
        expiry.cancel()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connections += 1
        relay.join(transport, stream).add_done_callback(self._over)

    def _over(self, _: asyncio.Future[None]) -> None:
        self.connections -= 1

    # ICMP.

    def _echo(self, packet: Packet) -> None:
        if self._pings < MOST_PINGS:
            self._pings += 1
            self._spawn(self._ping(packet))

    async def _ping(self, packet: Packet) -> None:
        family = socket.AF_INET if packet.version == 4 else socket.AF_INET6
        try:
            stream, _ = await request(
                self._session(), {"op": "ping", "host": socket.inet_ntop(family, packet.target)}, DIAL_TIMEOUT
            )
            stream.close()
            self._send(packets.echo_reply(packet))
        except TeleError as error:
            if getattr(error, "kind", "") == "unreachable":
                self._send(packets.unreachable(packet, packets.HOST_UNREACHABLE))
        finally:
            self._pings -= 1
