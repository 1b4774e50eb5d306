from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire.resume import ACKNOWLEDGE, ACKNOWLEDGE_EACH, DATA, FRAME, PING, PONG, TOTAL, Pong, Resumable, ResumeError


def sent(end: Resumable, *chunks: bytes) -> bytes:
    return end.send(list(chunks))


def payload(end: Resumable, data: bytes) -> bytes:
    return b"".join(end.receive(data)[0])


def test_frames_on_the_wire() -> None:
    end = Resumable()
    assert sent(end, b"ab", memoryview(b"c")) == bytes.fromhex("00 00000003 616263")  # type: ignore[arg-type]
    assert end.acknowledge() == bytes.fromhex("01 00000008 0000000000000000")
    assert end.ping(b"12345678") == bytes.fromhex("02 00000008") + b"12345678"


def test_nothing_is_sent_for_nothing() -> None:
    end = Resumable()
    assert end.send([]) == end.send([b"", b""]) == b""
    assert end.total_sent == 0


def test_what_is_sent_is_kept_until_it_is_acknowledged() -> None:
    near, far = Resumable(), Resumable()
    assert payload(far, sent(near, b"hello")) == b"hello"
    assert (near.total_sent, near.unacknowledged, far.received) == (5, 5, 5)
    assert far.owes_acknowledgement
    near.receive(far.acknowledge())
    assert not far.owes_acknowledgement
    assert (near.total_sent, near.unacknowledged) == (5, 0)
    assert near.attach(5) == []


def test_an_acknowledgement_of_a_part_keeps_the_rest() -> None:
    near = Resumable()
    sent(near, b"hello")
    sent(near, b"world")
    near.receive(FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(7))
    assert near.unacknowledged == 3
    assert payload(Resumable(), b"".join(near.attach(7))) == b"rld"
    near.receive(FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(2))
    assert near.unacknowledged == 3, "an old acknowledgement says nothing new"


def test_much_is_acknowledged_at_once_without_being_asked() -> None:
    near, far = Resumable(), Resumable()
    _, replies, _ = far.receive(sent(near, bytes(ACKNOWLEDGE_EACH - 1)))
    assert replies == []
    _, replies, _ = far.receive(sent(near, b"x"))
    assert replies == [FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(ACKNOWLEDGE_EACH)]
    assert not far.owes_acknowledgement


def test_it_is_full_at_its_limit_and_free_below() -> None:
    near = Resumable(limit=10)
    sent(near, b"123456789")
    assert not near.full
    sent(near, b"0")
    assert near.full
    near.receive(FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(1))
    assert not near.full


def test_a_ping_comes_back_as_a_pong() -> None:
    near, far = Resumable(), Resumable()
    _, replies, _ = far.receive(near.ping(b"opaque!!"))
    assert replies == [FRAME.pack(PONG, 8) + b"opaque!!"]
    assert near.receive(replies[0]) == ([], [], [Pong(b"opaque!!")])


def test_an_empty_data_frame_is_nothing() -> None:
    far = Resumable()
    assert payload(far, FRAME.pack(DATA, 0) + FRAME.pack(DATA, 1) + b"x") == b"x"


@pytest.mark.parametrize(
    "data",
    [
        FRAME.pack(4, 0),
        FRAME.pack(ACKNOWLEDGE, 7) + bytes(7),
        FRAME.pack(PING, 0),
        FRAME.pack(PONG, 1 << 31),
        b'{"v":1,"error":"another protocol"}',
    ],
)
def test_what_is_no_link_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(ResumeError, match="not known"):
        Resumable().receive(data)


def test_an_acknowledgement_of_what_was_not_sent_is_an_error() -> None:
    near = Resumable()
    sent(near, b"abc")
    with pytest.raises(ResumeError, match="acknowledged 4 bytes, only 3"):
        near.receive(FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(4))


@pytest.mark.parametrize("claim", [-1, 2, 6, 2**64])
def test_a_claim_that_cannot_be_right_is_refused_and_changes_nothing(claim: int) -> None:
    near = Resumable()
    sent(near, b"hello")
    near.receive(FRAME.pack(ACKNOWLEDGE, 8) + TOTAL.pack(3))
    with pytest.raises(ResumeError, match="cannot go on"):
        near.check(claim)
    with pytest.raises(ResumeError, match="cannot go on"):
        near.attach(claim)
    assert payload(Resumable(), b"".join(near.attach(4))) == b"o"


def test_a_frame_that_the_old_link_left_half_done_is_forgotten() -> None:
    near, far = Resumable(), Resumable()
    data = sent(near, b"hello") + near.ping(b"12345678")
    for cut in (2, FRAME.size, FRAME.size + 2, len(data) - 3):
        near, far = Resumable(), Resumable()
        first = payload(far, (sent(near, b"hello") + near.ping(b"12345678"))[:cut])
        resent = b"".join(near.attach(far.received))
        far.attach(near.received)
        assert first + payload(far, resent + near.acknowledge()) == b"hello"


def test_a_new_link_owes_no_acknowledgement_for_what_the_handshake_told() -> None:
    near, far = Resumable(), Resumable()
    far.receive(sent(near, b"hello"))
    far.attach(near.received)
    assert not far.owes_acknowledgement


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1), st.lists(st.binary(max_size=50), max_size=10))
def test_bytes_are_the_same_however_the_link_cuts_them(cuts: list[int], chunks: list[bytes]) -> None:
    near, far = Resumable(), Resumable()
    wire = b"".join(sent(near, chunk) + near.ping(struct.pack(">Q", len(chunk))) for chunk in chunks)
    received, pings, position, turn = b"", [], 0, 0
    while position < len(wire):
        size = cuts[turn % len(cuts)]
        data, replies, pongs = far.receive(wire[position : position + size])
        received += b"".join(data)
        pings += replies
        assert not pongs
        position, turn = position + size, turn + 1
    assert received == b"".join(chunks)
    assert pings == [FRAME.pack(PONG, 8) + struct.pack(">Q", len(chunk)) for chunk in chunks]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 2000)),
        st.tuples(st.just("carry"), st.integers(1, 3000)),
        st.tuples(st.just("acknowledge"), st.just(0)),
        st.tuples(st.just("break"), st.integers(0, 3000)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(STEPS, STEPS)
def test_both_directions_survive_breaks_at_any_byte(forth: list[tuple[str, int]], back: list[tuple[str, int]]) -> None:
    ends = [Resumable(), Resumable()]
    wires = [b"", b""]
    """What is under way from each end."""
    written, got = [b"", b""], [b"", b""]
    source = random.Random(7)

    def carry(which: int, size: int) -> None:
        data, wires[which] = wires[which][:size], wires[which][size:]
        parts, replies, _ = ends[1 - which].receive(data)
        got[1 - which] += b"".join(parts)
        wires[1 - which] += b"".join(replies)

    def broken() -> None:
        """Both resend from what the other has."""
        had = ends[0].received, ends[1].received
        wires[0] = b"".join(ends[0].attach(had[1]))
        wires[1] = b"".join(ends[1].attach(had[0]))

    steps = [(0, step) for step in forth] + [(1, step) for step in back]
    random.Random(len(steps)).shuffle(steps)
    for which, (action, size) in steps:
        if action == "send":
            data = source.randbytes(size)
            written[which] += data
            wires[which] += sent(ends[which], data)
        elif action == "carry":
            carry(which, size)
        elif action == "acknowledge":
            wires[which] += ends[which].acknowledge()
        else:
            carry(which, size)
            broken()
        assert written[1 - which].startswith(got[which])
    broken()
    for which in (0, 1):
        carry(which, len(wires[which]))
    assert got == written[::-1]
    assert [end.received for end in ends] == [end.total_sent for end in ends[::-1]]
