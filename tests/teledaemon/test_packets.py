"""The VIF's packets: what is read of them, and that the answers are what another stack would take for true."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teledaemon import packets
from teledaemon.packets import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, Flow, Packet

CLIENT = {4: socket.inet_pton(socket.AF_INET, "172.30.0.2"), 6: socket.inet_pton(socket.AF_INET6, "fd00:30::2")}
SERVICE = {4: socket.inet_pton(socket.AF_INET, "10.96.0.10"), 6: socket.inet_pton(socket.AF_INET6, "fd00:10:96::a")}
VERSIONS = pytest.mark.parametrize("version", [4, 6])
addresses = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)
ports = st.integers(0, 65535)


def parsed(raw: bytes) -> Packet:
    packet = packets.parse(raw)
    assert packet is not None
    return packet


def ones_complement(data: bytes) -> int:
    """The sum of RFC 1071, one word after the other; 0xFFFF over data with a correct checksum in it."""
    total = 0
    for position in range(0, len(data), 2):
        total += int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def whole(packet: Packet) -> bytes:
    """Payload with the pseudo header that TCP, UDP and ICMPv6 count with (RFC 9293, 3.1; RFC 8200, 8.1)."""
    if packet.version == 4:
        pseudo = packet.source + packet.target + bytes([0, packet.protocol]) + len(packet.payload).to_bytes(2, "big")
    else:
        pseudo = (
            packet.source + packet.target + len(packet.payload).to_bytes(4, "big") + bytes([0, 0, 0, packet.protocol])
        )
    return pseudo + packet.payload


def segment(version: int, flags: int, sequence: int = 7, acknowledged: int = 0, data: bytes = b"") -> Packet:
    """What a client sends from port 40000 to port 80."""
    head = struct.pack("!HHIIBBHHH", 40000, 80, sequence, acknowledged, 5 << 4, flags, 1024, 0, 0)
    return parsed(packets.build(CLIENT[version], SERVICE[version], TCP, head + data))


def test_the_checksum_of_the_rfc() -> None:
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # RFC 1071, 3
    assert packets.checksum(b"") == 0xFFFF
    assert packets.checksum(b"\xff\xff" * 40000) == 0


@given(st.binary(max_size=300))
def test_data_with_its_checksum_sums_up_to_ones(data: bytes) -> None:
    even = data + b"\0" * (len(data) % 2)
    assert ones_complement(even + packets.checksum(data).to_bytes(2, "big")) == 0xFFFF


@given(addresses, st.integers(0, 255), st.binary(max_size=2000))
def test_what_is_built_is_read_back(ends: tuple[bytes, bytes], protocol: int, payload: bytes) -> None:
    raw = packets.build(*ends, protocol, payload)
    if len(ends[0]) == 16 and protocol in (0, 43, 44, 60):  # these would be extension headers
        return
    packet = parsed(raw + b"behind it")
    assert (packet.source, packet.target, packet.protocol, packet.payload) == (*ends, protocol, payload)
    assert packet.version == (4 if len(ends[0]) == 4 else 6)
    assert not packet.is_fragment
    if packet.version == 4:
        assert ones_complement(raw[:20]) == 0xFFFF
        assert not raw[6] & 0x40  # may be cut on its way


@given(st.binary(max_size=100))
def test_rubbish_is_never_an_error(raw: bytes) -> None:
    for first in (0x45, 0x4F, 0x60):
        packet = packets.parse(bytes([first]) + raw)
        if packet is None:
            continue
        packets.is_echo_request(packet)
        if packet.protocol in (TCP, UDP) and packets.flow_of(packet) and packet.protocol == TCP:
            packets.refusal(packet)
        packets.unreachable(packet, packets.HOST_UNREACHABLE)


@VERSIONS
def test_a_cut_packet_is_none(version: int) -> None:
    raw = packets.build(CLIENT[version], SERVICE[version], UDP, struct.pack("!HHHH", 5, 6, 12, 0) + b"data")
    assert parsed(raw).payload[8:] == b"data"
    for size in range(len(raw)):
        assert packets.parse(raw[:size]) is None


@pytest.mark.parametrize(
    "change",
    [
        (0, 0x44),  # a header of less than 20 bytes
        (0, 0x55),  # no such version
        (2, 0xFF),  # longer than what is there
        (3, 19),  # a total shorter than the header
    ],
)
def test_a_malformed_ipv4_header_is_none(change: tuple[int, int]) -> None:
    raw = bytearray(packets.build(CLIENT[4], SERVICE[4], UDP, b"12345678"))
    raw[change[0]] = change[1]
    assert packets.parse(bytes(raw)) is None


def test_ipv4_options_are_no_payload() -> None:
    plain = packets.build(CLIENT[4], SERVICE[4], UDP, b"12345678")
    head = bytes([0x46, 0]) + (len(plain) + 4).to_bytes(2, "big")
    assert parsed(head + plain[4:20] + b"\x01\x01\x01\x00" + plain[20:]).payload == b"12345678"


def test_ipv6_extension_headers_are_passed_over() -> None:
    hop = bytes([43, 0]) + b"\1\4\0\0\0\0"
    routing = bytes([60, 1]) + bytes(14)
    options = bytes([UDP, 0]) + b"\1\4\0\0\0\0"
    raw = packets.build(CLIENT[6], SERVICE[6], 0, hop + routing + options + b"12345678")
    packet = parsed(raw)
    assert (packet.protocol, packet.payload) == (UDP, b"12345678")
    assert packets.parse(packets.build(CLIENT[6], SERVICE[6], 0, bytes([UDP, 9]) + bytes(6))) is None
    assert packets.parse(packets.build(CLIENT[6], SERVICE[6], 0, bytes([UDP, 0]))) is None


@given(st.binary(min_size=1, max_size=5000), st.integers(1280, 1500))
def test_ipv6_pieces_are_small_and_join(payload: bytes, mtu: int) -> None:
    pieces = packets.fragments6(packets.build(CLIENT[6], SERVICE[6], UDP, payload), mtu)
    assert all(len(piece) <= mtu for piece in pieces)
    read = [parsed(piece) for piece in pieces]
    assert b"".join(one.payload for one in sorted(read, key=lambda one: one.fragment_offset)) == payload
    assert {one.protocol for one in read} == {UDP}
    if len(read) > 1:
        assert len({one.fragment_id for one in read}) == 1
        assert [one.more_fragments for one in read] == [True] * (len(read) - 1) + [False]
        assert all(one.is_fragment and len(one.payload) % 8 == 0 for one in read[:-1])


@VERSIONS
def test_a_syn_is_refused_as_the_rfc_has_it(version: int) -> None:
    answer = parsed(packets.refusal(segment(version, SYN, sequence=0xFFFFFFFF)))
    source, target, sequence, acknowledged, _, flags = struct.unpack_from("!HHIIBB", answer.payload)
    assert (answer.source, answer.target) == (SERVICE[version], CLIENT[version])
    assert (source, target, sequence, acknowledged, flags) == (80, 40000, 0, 0, RST | ACK)
    assert ones_complement(whole(answer)) == 0xFFFF


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=20), st.booleans())
def test_a_segment_of_no_connection_is_refused(sequence: int, acknowledged: int, data: bytes, end: bool) -> None:
    flags = FIN if end else 0
    with_ack = parsed(packets.refusal(segment(4, ACK | flags, sequence, acknowledged, data)))
    assert struct.unpack_from("!IIBB", with_ack.payload, 4) == (acknowledged, 0, 0x50, RST)
    without = parsed(packets.refusal(segment(6, flags, sequence, acknowledged, data)))
    expected = (sequence + len(data) + end) & 0xFFFFFFFF
    assert struct.unpack_from("!IIBB", without.payload, 4) == (0, expected, 0x50, RST | ACK)
    assert ones_complement(whole(with_ack)) == ones_complement(whole(without)) == 0xFFFF


@given(addresses, ports, ports, st.binary(max_size=3000))
def test_an_answer_comes_from_where_it_was_sent_to(ends: tuple[bytes, bytes], a: int, b: int, data: bytes) -> None:
    flow = Flow(ends[0], a, ends[1], b)
    answer = parsed(packets.datagram(flow, data))
    assert packets.flow_of(answer) == Flow(ends[1], b, ends[0], a)
    assert answer.payload[8:] == data
    assert int.from_bytes(answer.payload[4:6], "big") == len(data) + 8
    assert answer.payload[6:8] != b"\0\0"  # would mean: no checksum
    assert ones_complement(whole(answer)) == 0xFFFF


@VERSIONS
def test_a_checksum_of_zero_is_sent_as_ones(version: int) -> None:
    """Zero would mean that there is none, which IPv6 does not take (RFC 768; RFC 8200, 8.1)."""
    flow = Flow(CLIENT[version], 40000, SERVICE[version], 53)
    data = parsed(packets.datagram(flow, b"\0\0")).payload[6:8]
    assert parsed(packets.datagram(flow, data)).payload[6:8] == b"\xff\xff"


def test_a_flow_tells_its_target_as_text() -> None:
    assert Flow(CLIENT[4], 1, SERVICE[4], 2).host == "10.96.0.10"
    assert Flow(CLIENT[6], 1, SERVICE[6], 2).host == "fd00:10:96::a"


@pytest.mark.parametrize(("protocol", "size"), [(TCP, 19), (UDP, 7)])
def test_a_header_that_is_cut_is_no_flow(protocol: int, size: int) -> None:
    assert packets.flow_of(parsed(packets.build(CLIENT[4], SERVICE[4], protocol, bytes(size)))) is None
    assert packets.flow_of(parsed(packets.build(CLIENT[4], SERVICE[4], protocol, bytes(size + 1)))) is not None


@pytest.mark.parametrize(("version", "ask", "answer"), [(4, 8, 0), (6, 128, 129)])
def test_a_ping_gets_its_own_bytes_back(version: int, ask: int, answer: int) -> None:
    protocol = ICMP if version == 4 else ICMP6
    body = struct.pack("!HH", 77, 3) + b"payload"
    asked = parsed(packets.build(CLIENT[version], SERVICE[version], protocol, bytes([ask, 0, 0, 0]) + body))
    assert packets.is_echo_request(asked)
    reply = parsed(packets.echo_reply(asked))
    assert (reply.source, reply.target) == (SERVICE[version], CLIENT[version])
    assert (reply.payload[:2], reply.payload[4:]) == (bytes([answer, 0]), body)
    assert ones_complement(reply.payload if version == 4 else whole(reply)) == 0xFFFF
    assert not packets.is_echo_request(reply)
    assert not packets.is_echo_request(
        parsed(packets.build(CLIENT[version], SERVICE[version], protocol, bytes([ask, 0])))
    )


@pytest.mark.parametrize(
    ("why", "four", "six"),
    [  # RFC 792, RFC 1122, 3.2.2.1 and RFC 1812, 5.2.7.1; RFC 4443, 3.1 and 3.4
        (packets.HOST_UNREACHABLE, (3, 1), (1, 3)),
        (packets.PORT_UNREACHABLE, (3, 3), (1, 4)),
        (packets.PROTOCOL_UNREACHABLE, (3, 2), (4, 1)),
        (packets.PROHIBITED, (3, 13), (1, 1)),
    ],
)
@VERSIONS
def test_icmp_errors_quote_what_they_are_about(
    version: int, why: str, four: tuple[int, int], six: tuple[int, int]
) -> None:
    asked = parsed(
        packets.build(CLIENT[version], SERVICE[version], UDP, struct.pack("!HHHH", 5, 6, 2008, 0) + bytes(2000))
    )
    error = parsed(packets.unreachable(asked, why))
    assert (error.source, error.target) == (SERVICE[version], CLIENT[version])
    assert tuple(error.payload[:2]) == (four if version == 4 else six)
    assert asked.raw.startswith(error.payload[8:])
    assert len(error.payload) > 8 + 40 + 8
    assert len(packets.unreachable(asked, why)) <= (576 if version == 4 else 1280)  # RFC 1812, 4.3.2.3; RFC 4443, 2.4
    assert ones_complement(error.payload if version == 4 else whole(error)) == 0xFFFF
