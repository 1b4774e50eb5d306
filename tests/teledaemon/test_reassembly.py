"""Datagrams in pieces: whole in whatever order they come, and nothing kept for ever."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teledaemon import packets
from teledaemon.packets import UDP, Packet
from teledaemon.reassembly import MOST, TIMEOUT, Reassembly

SOURCE, TARGET = b"\xac\x1e\0\2", b"\x0a\x60\0\x0a"


def piece(payload: bytes, offset: int, *, more: bool, number: int = 1) -> Packet:
    """One IPv4 fragment, read as from the device."""
    raw = bytearray(packets.build(SOURCE, TARGET, UDP, payload))
    raw[4:8] = struct.pack("!HH", number, offset // 8 | (0x2000 if more else 0))
    packet = packets.parse(bytes(raw))
    assert packet is not None
    return packet


def pieces(payload: bytes, size: int, number: int = 1) -> list[Packet]:
    starts = range(0, len(payload), size)
    return [piece(payload[at : at + size], at, more=at + size < len(payload), number=number) for at in starts]


def added(reassembly: Reassembly, parts: list[Packet], now: float = 0.0) -> list[Packet]:
    return [one for part in parts if (one := reassembly.add(part, now)) is not None]


@settings(max_examples=60)
@given(st.binary(min_size=9, max_size=2000), st.sampled_from([8, 64, 512]), st.randoms())
def test_the_order_does_not_matter(payload: bytes, size: int, order: object) -> None:
    parts = pieces(payload, size)
    order.shuffle(parts)  # type: ignore[attr-defined]
    found = added(Reassembly(), parts)
    assert [one.payload for one in found] == [payload]
    assert not found[0].is_fragment
    assert (found[0].source, found[0].target, found[0].protocol) == (SOURCE, TARGET, UDP)


def test_ipv6_pieces_join() -> None:
    payload = bytes(range(256)) * 20
    raw = packets.build(SOURCE * 4, TARGET * 4, UDP, payload)
    parts = [part for part in map(packets.parse, packets.fragments6(raw, 1280)) if part is not None]
    found = added(Reassembly(), parts[::-1])
    assert [(one.version, one.payload) for one in found] == [(6, payload)]


def test_datagrams_do_not_mix() -> None:
    one, two = pieces(b"1" * 30, 8, number=1), pieces(b"2" * 30, 8, number=2)
    mixed = [part for pair in zip(one, two, strict=True) for part in pair]
    assert [found.payload for found in added(Reassembly(), mixed)] == [b"1" * 30, b"2" * 30]


def test_a_piece_that_comes_twice_does_no_harm() -> None:
    first, last = pieces(b"0123456789", 8)
    assert [one.payload for one in added(Reassembly(), [first, first, last])] == [b"0123456789"]


def test_a_datagram_with_a_gap_or_an_overlap_is_not_whole() -> None:
    assert added(Reassembly(), [piece(b"12345678", 0, more=True), piece(b"x", 16, more=False)]) == []
    assert added(Reassembly(), [piece(b"1" * 24, 0, more=True), piece(b"x" * 20, 16, more=False)]) == []


def test_the_error_about_a_datagram_quotes_its_first_piece() -> None:
    """Only there are the ports by which the sender's kernel finds the socket that is told."""
    parts = pieces(struct.pack("!HHHH", 5, 6, 108, 0) + bytes(100), 32)
    (found,) = added(Reassembly(), parts[::-1])
    assert found.raw == parts[0].raw
    (found,) = added(Reassembly(), parts)
    assert found.raw == parts[0].raw


def test_what_comes_too_late_is_dropped() -> None:
    reassembly = Reassembly()
    first, last = pieces(b"0123456789", 8)
    assert reassembly.add(first, 0.0) is None
    assert reassembly.add(last, TIMEOUT + 0.1) is None
    found = reassembly.add(first, TIMEOUT + 0.2)
    assert found is not None
    assert found.payload == b"0123456789"


def test_no_datagram_is_longer_than_ip_allows() -> None:
    """A relay could not carry it, and a sender that means well never makes it."""
    parts = [*pieces(bytes(65528), 1024 * 8)]
    parts[-1] = piece(parts[-1].payload, parts[-1].fragment_offset, more=True)
    assert added(Reassembly(), [*parts, piece(bytes(1000), 65528, more=False)]) == []


def test_pieces_that_overlap_are_not_hoarded() -> None:
    reassembly = Reassembly()
    for offset in range(0, 65528 - 8000, 8):
        assert reassembly.add(piece(bytes(8000), offset, more=True), 0.0) is None
    kept = sum(len(data) for parts in reassembly._packets.values() for data in parts.parts.values())
    assert kept <= 2 * 65535


@pytest.mark.parametrize("late", [0.0, TIMEOUT + 1])
def test_only_so_many_are_kept(late: float) -> None:
    reassembly = Reassembly()
    for number in range(MOST * 3):
        reassembly.add(pieces(b"0123456789", 8, number)[0], late * (number == MOST * 3 - 1))
        assert len(reassembly._packets) <= MOST
    found = reassembly.add(pieces(b"0123456789", 8, MOST * 3 - 1)[1], late)
    assert found is not None
    assert reassembly.add(pieces(b"0123456789", 8, 0)[1], late) is None
