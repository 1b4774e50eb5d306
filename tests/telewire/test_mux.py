from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire.mux import (
    ACK,
    FIN,
    HEADER,
    INITIAL_WINDOW,
    RST,
    SYN,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW,
    DataReceived,
    Event,
    GoneAway,
    Mux,
    ProtocolError,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0) -> bytes:
    return HEADER.pack(version, kind, flags, stream, length) + body


def out(mux: Mux) -> bytes:
    return b"".join(mux.data_to_send())


def carry(source: Mux, target: Mux) -> list[Event]:
    return target.receive(out(source))


def told(events: list[Event]) -> list[Event | tuple[int, bytes]]:
    """Return the events, data as plain bytes."""
    return [(event.id, bytes(event.data)) if isinstance(event, DataReceived) else event for event in events]


@pytest.fixture
def client() -> Mux:
    return Mux(client=True)


@pytest.fixture
def server() -> Mux:
    return Mux(client=False)


def test_the_header_is_that_of_yamux() -> None:
    assert frame(TYPE_DATA, SYN | FIN, 3, 5) == bytes.fromhex("00 00 0005 00000003 00000005")


def test_the_client_opens_odd_streams_and_the_server_even_ones(client: Mux, server: Mux) -> None:
    assert [client.open_stream(), client.open_stream()] == [1, 3]
    assert [server.open_stream(), server.open_stream()] == [2, 4]
    assert carry(client, server) == [StreamOpened(1), StreamOpened(3)]
    assert StreamOpened(2) in carry(server, client)
    assert client.streams == server.streams == 4


def test_opening_is_one_window_frame_that_is_acknowledged(client: Mux, server: Mux) -> None:
    client.open_stream()
    opening = out(client)
    assert opening == frame(TYPE_WINDOW, SYN, 1, 0)
    server.receive(opening)
    assert out(server) == frame(TYPE_WINDOW, ACK, 1, 0)


def test_a_peer_may_open_with_data_and_end_in_the_same_frame(server: Mux) -> None:
    events = server.receive(frame(TYPE_DATA, SYN | FIN, 1, 2, b"hi"))
    assert told(events) == [StreamOpened(1), (1, b"hi"), StreamEnded(1)]


def test_a_peer_may_open_with_a_larger_window(server: Mux) -> None:
    server.receive(frame(TYPE_WINDOW, SYN, 1, 1000))
    assert server.send_window(1) == INITIAL_WINDOW + 1000


def test_bytes_go_both_ways(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    assert client.send(stream, b"question") == 8
    assert told(carry(client, server)) == [StreamOpened(1), (1, b"question")]
    assert server.send(stream, memoryview(b"answer")) == 6
    assert told(carry(server, client)) == [(1, b"answer")]


def test_what_is_to_be_sent_is_given_out_once(client: Mux) -> None:
    client.open_stream()
    assert out(client)
    assert client.data_to_send() == []


def test_a_half_closed_stream_still_receives(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    client.end(stream)
    assert carry(client, server) == [StreamOpened(1), StreamEnded(1)]
    assert client.send(stream, b"too late") == 0
    assert client.send_window(stream) == 0
    server.send(stream, b"still here")
    server.end(stream)
    assert told(carry(server, client)) == [(1, b"still here"), StreamEnded(1)]
    assert client.streams == server.streams == 0


def test_the_end_is_told_once(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    client.end(stream)
    client.end(stream)
    assert carry(client, server).count(StreamEnded(1)) == 1
    assert server.receive(frame(TYPE_WINDOW, FIN, stream, 0)) == []


def test_a_reset_forgets_the_stream_at_both_ends(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    client.send(stream, b"x")
    client.reset(stream)
    client.reset(stream)
    assert told(carry(client, server)) == [StreamOpened(1), (1, b"x"), StreamReset(1)]
    assert client.streams == server.streams == 0
    assert server.send(stream, b"x") == client.send(stream, b"x") == 0
    server.end(stream)
    server.consumed(stream, 1)
    assert out(server) == frame(TYPE_WINDOW, ACK, 1, 0), "nothing is said of a stream that is gone"


@pytest.mark.parametrize("flags", [0, ACK, FIN, RST])
def test_what_comes_for_a_forgotten_stream_is_dropped(server: Mux, flags: int) -> None:
    assert server.receive(frame(TYPE_WINDOW, flags, 7, 0)) == []
    assert server.receive(frame(TYPE_DATA, flags, 7, 3, b"abc")) == []
    assert told(server.receive(frame(TYPE_DATA, SYN, 9, 1, b"y"))) == [StreamOpened(9), (9, b"y")]


def test_a_reset_while_data_is_under_way_leaves_the_framing_whole(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    client.send(stream, b"abcdef")
    other = client.open_stream()
    client.send(other, b"xyz")
    data = out(client)
    cut = HEADER.size * 2 + 3
    assert told(server.receive(data[:cut])) == [StreamOpened(1), (1, b"abc")]
    server.reset(stream)
    assert told(server.receive(data[cut:])) == [StreamOpened(3), (3, b"xyz")]


def test_a_ping_is_answered_with_its_value(server: Mux) -> None:
    assert server.receive(frame(TYPE_PING, SYN, 0, 0xDEADBEEF)) == []
    assert out(server) == frame(TYPE_PING, ACK, 0, 0xDEADBEEF)
    assert server.receive(frame(TYPE_PING, ACK, 0, 1)) == []
    assert out(server) == b""


def test_nothing_is_opened_towards_a_peer_that_goes_away(client: Mux, server: Mux) -> None:
    stream = client.open_stream()
    carry(client, server)
    server.go_away(2)
    assert carry(server, client) == [GoneAway(2)]
    with pytest.raises(ProtocolError, match="no new streams"):
        client.open_stream()
    assert client.send(stream, b"old ones go on") == 14


def test_a_blocked_stream_is_told_once_when_it_may_send_again(client: Mux) -> None:
    stream = client.open_stream()
    assert client.send(stream, bytes(INITIAL_WINDOW + 1)) == INITIAL_WINDOW
    assert client.send(stream, b"x") == 0
    assert client.receive(frame(TYPE_WINDOW, 0, stream, 10)) == [WindowOpened(stream)]
    assert client.receive(frame(TYPE_WINDOW, 0, stream, 10)) == []
    assert client.send_window(stream) == 20


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (frame(TYPE_DATA, 0, 1, 0, version=1), "version 1"),
        (frame(4, 0, 1, 0), "type 4"),
        (b"HTTP/1.1 400 Bad Request", "version 72"),
        (frame(TYPE_WINDOW, SYN, 2, 0), "opened stream 2"),
        (frame(TYPE_WINDOW, SYN, 1, 0) * 2, "opened stream 1"),
        (frame(TYPE_DATA, SYN, 1, INITIAL_WINDOW + 1), "more on stream 1"),
        (frame(TYPE_DATA, SYN | FIN, 1, 0) + frame(TYPE_DATA, 0, 1, 1, b"x"), "more on stream 1"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_so(server: Mux, data: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        server.receive(data)


@pytest.mark.parametrize("is_client", [True, False])
def test_stream_0_is_the_session_itself_and_cannot_be_opened(is_client: bool) -> None:
    with pytest.raises(ProtocolError, match="opened stream 0"):
        Mux(is_client).receive(frame(TYPE_WINDOW, SYN, 0, 0))


def test_a_go_away_frame_on_the_wire(client: Mux) -> None:
    client.go_away(1)
    assert out(client) == frame(TYPE_GO_AWAY, 0, 0, 1)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1), st.binary(max_size=200))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int], body: bytes) -> None:
    stream = (
        frame(TYPE_WINDOW, SYN, 1, 0)
        + frame(TYPE_DATA, 0, 1, len(body), body)
        + frame(TYPE_PING, SYN, 0, 5)
        + frame(TYPE_DATA, SYN | RST, 3, len(body), body)
        + frame(TYPE_DATA, FIN, 1, len(body), body)
        + frame(TYPE_GO_AWAY, 0, 0, 0)
    )
    mux, received, others, position = Mux(client=False), {1: b"", 3: b""}, [], 0
    for turn in range(len(stream)):
        piece = stream[position : position + cuts[turn % len(cuts)]]
        position += len(piece)
        for event in mux.receive(piece):
            if isinstance(event, DataReceived):
                received[event.id] += bytes(event.data)
            else:
                others.append(event)
    assert received == {1: body * 2, 3: body}
    assert others == [StreamOpened(1), StreamOpened(3), StreamReset(3), StreamEnded(1), GoneAway(0)]
    assert out(mux).endswith(frame(TYPE_WINDOW, ACK, 3, 0))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_gives_events_or_a_protocol_error_and_nothing_else(noise: bytes) -> None:
    try:
        Mux(client=False).receive(noise)
    except ProtocolError:
        assert struct.calcsize(">BBHII") <= len(noise)
