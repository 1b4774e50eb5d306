"""IP packets as the VIF reads and writes them: just enough of IPv4, IPv6, TCP, UDP and ICMP. Sans-io.

Sources: RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443, RFC 1071 (checksum).
"""

from __future__ import annotations

import itertools
import socket
import struct
from dataclasses import dataclass

ICMP, TCP, UDP, FRAGMENT6, ICMP6 = 1, 6, 17, 44, 58
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
HOP_LIMIT = 64
_SKIPPED6 = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options: each tells its own length."""
_identification = itertools.count(1)

HOST_UNREACHABLE, PORT_UNREACHABLE, PROTOCOL_UNREACHABLE, PROHIBITED = "host", "port", "protocol", "prohibited"
_UNREACHABLE4 = {HOST_UNREACHABLE: (3, 1), PORT_UNREACHABLE: (3, 3), PROTOCOL_UNREACHABLE: (3, 2), PROHIBITED: (3, 13)}
_UNREACHABLE6 = {HOST_UNREACHABLE: (1, 3), PORT_UNREACHABLE: (1, 4), PROTOCOL_UNREACHABLE: (4, 1), PROHIBITED: (1, 1)}


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet, its addresses packed (4 or 16 bytes), its fragment header taken off."""

    version: int
    source: bytes
    target: bytes
    protocol: int
    payload: bytes
    raw: bytes
    fragment_id: int = 0
    fragment_offset: int = 0
    more_fragments: bool = False

    @property
    def is_fragment(self) -> bool:
        """Whether it is only a part."""
        return self.more_fragments or self.fragment_offset > 0


def parse(raw: bytes) -> Packet | None:
    """Return what a TUN device gave; None if it is no whole IP packet."""
    if len(raw) < 20:
        return None
    if raw[0] >> 4 == 4:
        return _parse4(raw)
    return _parse6(raw) if raw[0] >> 4 == 6 and len(raw) >= 40 else None


def _parse4(raw: bytes) -> Packet | None:
    header, (total,) = (raw[0] & 15) * 4, struct.unpack_from("!H", raw, 2)
    if header < 20 or total < header or len(raw) < total:
        return None
    identification, flags = struct.unpack_from("!HH", raw, 4)
    return Packet(
        4,
        raw[12:16],
        raw[16:20],
        raw[9],
        raw[header:total],
        raw,
        identification,
        (flags & 0x1FFF) * 8,
        bool(flags & 0x2000),
    )


def _parse6(raw: bytes) -> Packet | None:
    length, following = struct.unpack_from("!HB", raw, 4)
    end, position = 40 + length, 40
    if len(raw) < end:
        return None
    identification = offset = 0
    more = False
    while following in _SKIPPED6 or following == FRAGMENT6:
        if position + 8 > end:
            return None
        if following == FRAGMENT6:
            flags, identification = struct.unpack_from("!HI", raw, position + 2)
            offset, more = flags & 0xFFF8, bool(flags & 1)
            following, position = raw[position], position + 8
        else:
            following, position = raw[position], position + 8 + raw[position + 1] * 8
    if position > end:
        return None
    return Packet(6, raw[8:24], raw[24:40], following, raw[position:end], raw, identification, offset, more)


def checksum(data: bytes) -> int:
    """Return the Internet checksum of ``data``."""
    if len(data) % 2:
        data += b"\0"
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo_header(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + target + struct.pack("!BBH", 0, protocol, length)
    return source + target + struct.pack("!IHBB", length, 0, 0, protocol)


def build(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    """Return an IP packet; IPv4 without "don't fragment"."""
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, HOP_LIMIT) + source + target + payload
    number = next(_identification) & 0xFFFF
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), number, 0, HOP_LIMIT, protocol, 0) + source + target
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def fragments6(packet: bytes, mtu: int) -> list[bytes]:
    """Return an IPv6 packet that :func:`build` made in pieces of at most ``mtu`` bytes: nobody on the way may cut it."""
    if len(packet) <= mtu:
        return [packet]
    payload, protocol, number = packet[40:], packet[6], next(_identification) & 0xFFFFFFFF
    size = (mtu - 48) // 8 * 8
    pieces = []
    for offset in range(0, len(payload), size):
        part = payload[offset : offset + size]
        more = offset + size < len(payload)
        header = struct.pack("!BBHI", protocol, 0, offset | more, number)
        pieces.append(build(packet[8:24], packet[24:40], FRAGMENT6, header + part))
    return pieces


@dataclass(frozen=True, slots=True)
class Flow:
    """Who talks to whom: addresses packed, ports."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int

    @property
    def host(self) -> str:
        """The target's address as text."""
        return socket.inet_ntop(socket.AF_INET if len(self.target) == 4 else socket.AF_INET6, self.target)


def flow_of(packet: Packet) -> Flow | None:
    """Return the flow of a TCP or UDP packet; None if it is cut."""
    if len(packet.payload) < (20 if packet.protocol == TCP else 8):
        return None
    source_port, target_port = struct.unpack_from("!HH", packet.payload)
    return Flow(packet.source, source_port, packet.target, target_port)


def tcp_flags(packet: Packet) -> int:
    """Return the flags of a TCP packet that has a :func:`flow_of`."""
    return int(packet.payload[13])


def refusal(packet: Packet) -> bytes:
    """Return the RST that answers a TCP segment for which there is no connection (RFC 9293, 3.10.7.1)."""
    source_port, target_port, sequence, acknowledged = struct.unpack_from("!HHII", packet.payload)
    flags = tcp_flags(packet)
    if flags & ACK:
        own, answers, kind = acknowledged, 0, RST
    else:
        length = len(packet.payload) - (packet.payload[12] >> 4) * 4 + bool(flags & SYN) + bool(flags & FIN)
        own, answers, kind = 0, (sequence + length) & 0xFFFFFFFF, RST | ACK
    segment = struct.pack("!HHIIBBHHH", target_port, source_port, own, answers, 5 << 4, kind, 0, 0, 0)
    total = checksum(_pseudo_header(packet.target, packet.source, TCP, len(segment)) + segment)
    return build(packet.target, packet.source, TCP, segment[:16] + struct.pack("!H", total) + segment[18:])


def datagram(flow: Flow, data: bytes) -> bytes:
    """Return the UDP packet that carries an answer of ``flow``'s target."""
    length = 8 + len(data)
    head = struct.pack("!HHHH", flow.target_port, flow.source_port, length, 0)
    total = checksum(_pseudo_header(flow.target, flow.source, UDP, length) + head + data) or 0xFFFF
    return build(flow.target, flow.source, UDP, head[:6] + struct.pack("!H", total) + data)


def is_echo_request(packet: Packet) -> bool:
    """Whether the packet is a ping."""
    wanted = {ICMP: 8, ICMP6: 128}.get(packet.protocol)
    return wanted is not None and len(packet.payload) >= 8 and packet.payload[0] == wanted


def echo_reply(packet: Packet) -> bytes:
    """Return the answer to a ping, from the address that was asked."""
    return _icmp(packet, 0 if packet.version == 4 else 129, 0, packet.payload[4:])


def unreachable(packet: Packet, why: str) -> bytes:
    """Return the ICMP error that says why ``packet`` did not arrive; it bears the target as its source."""
    if packet.version == 4:
        kind, code = _UNREACHABLE4[why]
        quoted = packet.raw[:548]
    else:
        kind, code = _UNREACHABLE6[why]
        quoted = packet.raw[:1200]
    return _icmp(packet, kind, code, b"\0\0\0\0" + quoted)


def _icmp(packet: Packet, kind: int, code: int, rest: bytes) -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + rest
    protocol = ICMP if packet.version == 4 else ICMP6
    head = b"" if packet.version == 4 else _pseudo_header(packet.target, packet.source, ICMP6, len(message))
    message = message[:2] + struct.pack("!H", checksum(head + message)) + message[4:]
    return build(packet.target, packet.source, protocol, message)
