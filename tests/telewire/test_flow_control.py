from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire.mux import (
    HEADER,
    INITIAL_WINDOW,
    MAX_FRAME,
    TYPE_DATA,
    TYPE_WINDOW,
    DataReceived,
    Event,
    Mux,
    StreamEnded,
    WindowOpened,
)

MIB = 1 << 20


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def carry(source: Mux, target: Mux) -> list[Event]:
    return target.receive(b"".join(source.data_to_send()))


def opened(sender: Mux, receiver: Mux) -> int:
    stream = sender.open_stream()
    carry(sender, receiver)
    carry(receiver, sender)
    return stream


def fill_and_use(sender: Mux, receiver: Mux, stream: int) -> int:
    """Send a window's worth, use it, give the credit back; return how much that was."""
    size = sender.send(stream, bytes(sender.send_window(stream)))
    carry(sender, receiver)
    receiver.consumed(stream, size)
    carry(receiver, sender)
    return size


def test_frames_are_no_longer_than_64_kib() -> None:
    mux = Mux(client=True)
    stream = mux.open_stream()
    mux.data_to_send()
    assert mux.send(stream, bytes(200_000)) == 200_000
    chunks = mux.data_to_send()
    sizes = [HEADER.unpack(header)[4] for header in chunks[::2]]
    assert sizes == [MAX_FRAME, MAX_FRAME, MAX_FRAME, 200_000 - 3 * MAX_FRAME]
    assert [len(body) for body in chunks[1::2]] == sizes


def test_no_more_is_sent_than_the_window_allows() -> None:
    mux = Mux(client=True)
    stream = mux.open_stream()
    assert mux.send(stream, bytes(INITIAL_WINDOW - 1)) == INITIAL_WINDOW - 1
    assert mux.send(stream, b"ab") == 1
    assert mux.send(stream, b"b") == 0
    assert mux.send_window(stream) == 0


def test_credit_is_given_back_when_half_the_window_is_used() -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, clock=clock)
    stream = opened(sender, receiver)
    clock.now = 10.0
    sender.send(stream, bytes(INITIAL_WINDOW))
    carry(sender, receiver)
    receiver.consumed(stream, INITIAL_WINDOW // 2 - 1)
    assert receiver.data_to_send() == []
    receiver.consumed(stream, 1)
    assert receiver.data_to_send() == [HEADER.pack(0, TYPE_WINDOW, 0, stream, INITIAL_WINDOW // 2)]


def test_a_window_that_is_used_up_slowly_does_not_grow() -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, clock=clock)
    stream = opened(sender, receiver)
    for _ in range(5):
        clock.now += 1.0
        assert fill_and_use(sender, receiver, stream) == INITIAL_WINDOW


def test_a_window_that_is_used_up_quickly_doubles_up_to_its_limit() -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, max_window=3 * MIB // 2, clock=clock)
    stream = opened(sender, receiver)
    sizes = [fill_and_use(sender, receiver, stream) for _ in range(6)]
    assert sizes == [MIB // 4, MIB // 2, MIB, 3 * MIB // 2, 3 * MIB // 2, 3 * MIB // 2]


@pytest.mark.parametrize(("round_trip", "grows"), [(0.001, False), (0.004, False), (0.02, True)])
def test_a_window_grows_while_it_is_used_up_within_two_round_trips(round_trip: float, grows: bool) -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, clock=clock)
    stream = opened(sender, receiver)
    receiver.round_trip = round_trip
    for _ in range(2):
        clock.now += 0.01
        size = fill_and_use(sender, receiver, stream)
    assert (size > INITIAL_WINDOW) is grows


def test_all_windows_together_stay_within_the_total() -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, max_total=MIB + 7, clock=clock)
    streams = [opened(sender, receiver) for _ in range(2)]
    for _ in range(4):
        for stream in streams:
            fill_and_use(sender, receiver, stream)
    assert sum(sender.send_window(stream) for stream in streams) == MIB + 7


def test_a_stream_that_goes_gives_its_share_of_the_total_to_the_others() -> None:
    clock = Clock()
    sender, receiver = Mux(client=True), Mux(client=False, max_total=MIB, clock=clock)
    first, second = opened(sender, receiver), opened(sender, receiver)
    for _ in range(3):
        fill_and_use(sender, receiver, first)
    assert fill_and_use(sender, receiver, second) == INITIAL_WINDOW
    assert fill_and_use(sender, receiver, second) == INITIAL_WINDOW
    sender.reset(first)
    carry(sender, receiver)
    assert fill_and_use(sender, receiver, second) == INITIAL_WINDOW
    assert fill_and_use(sender, receiver, second) == 2 * INITIAL_WINDOW


def test_no_credit_is_given_for_a_stream_that_the_peer_has_ended() -> None:
    sender, receiver = Mux(client=True), Mux(client=False)
    stream = opened(sender, receiver)
    sender.send(stream, bytes(INITIAL_WINDOW))
    sender.end(stream)
    carry(sender, receiver)
    receiver.consumed(stream, INITIAL_WINDOW)
    assert receiver.data_to_send() == []


def test_many_streams_share_a_connection_fairly_in_their_windows() -> None:
    sender, receiver = Mux(client=True), Mux(client=False)
    streams = [opened(sender, receiver) for _ in range(50)]
    for stream in streams:
        assert sender.send(stream, bytes([stream % 256]) * INITIAL_WINDOW) == INITIAL_WINDOW
    got = dict.fromkeys(streams, 0)
    for event in carry(sender, receiver):
        assert isinstance(event, DataReceived)
        assert bytes(event.data[:1]) == bytes([event.id % 256])
        got[event.id] += len(event.data)
    assert set(got.values()) == {INITIAL_WINDOW}


@pytest.mark.parametrize("piece", [1500, 65536, 1_000_003])
def test_a_big_transfer_arrives_as_it_was_sent(piece: int) -> None:
    data = random.Random(piece).randbytes(24 * MIB)
    sender, receiver = Mux(client=False), Mux(client=True)
    stream = opened(sender, receiver)
    view, sent, digest, received = memoryview(data), 0, hashlib.sha256(), 0
    while received < len(data):
        sent += sender.send(stream, view[sent : sent + piece * 4])
        wire = b"".join(sender.data_to_send())
        for start in range(0, len(wire), piece):
            for event in receiver.receive(wire[start : start + piece]):
                assert isinstance(event, DataReceived)
                digest.update(event.data)
                received += len(event.data)
                receiver.consumed(stream, len(event.data))
        carry(receiver, sender)
    assert digest.digest() == hashlib.sha256(data).digest()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["send", "carry", "back", "use"]), st.integers(0, 2), st.integers(1, 300_000)),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_no_byte_is_lost_or_swapped_whatever_the_order(actions: list[tuple[str, int, int]], pieces: list[int]) -> None:
    clock = Clock()
    sender, receiver = Mux(client=True, clock=clock), Mux(client=False, clock=clock)
    streams = [sender.open_stream() for _ in range(3)]
    pieces.append(65536)  # so that single bytes do not take for ever
    length = 1 << 20
    source = random.Random(0).randbytes(length) * 2
    sent, received, unused = (dict.fromkeys(streams, 0) for _ in range(3))
    ended: set[int] = set()

    def take(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StreamEnded):
                ended.add(event.id)
            elif isinstance(event, DataReceived):
                at = received[event.id] % length
                assert source[at : at + len(event.data)] == event.data
                received[event.id] += len(event.data)
                unused[event.id] += len(event.data)

    def forward() -> None:
        wire = b"".join(sender.data_to_send())
        position = turn = 0
        while position < len(wire):
            size = pieces[turn % len(pieces)]
            take(receiver.receive(wire[position : position + size]))
            position, turn = position + size, turn + 1

    def back() -> None:
        assert all(isinstance(event, WindowOpened) for event in carry(receiver, sender))

    for action, which, size in actions:
        stream = streams[which]
        clock.now += size / 1e6
        if action == "send":
            at = sent[stream] % length
            sent[stream] += sender.send(stream, source[at : at + size])
        elif action == "use":
            size = min(size, unused[stream])
            unused[stream] -= size
            receiver.consumed(stream, size)
        elif action == "back":
            back()
        else:
            forward()
    for stream in streams:
        sender.end(stream)
    forward()
    assert received == sent
    assert ended == set(streams)


def test_a_data_frame_that_is_sent_holds_the_callers_bytes_and_no_copy() -> None:
    mux = Mux(client=True)
    stream = mux.open_stream()
    data = b"x" * 1000
    mux.send(stream, data)
    header, body = mux.data_to_send()[1:]
    assert HEADER.unpack(header) == (0, TYPE_DATA, 0, stream, 1000)
    assert body is data
