"""Opening connections, and a client whose server is written down here."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from telemount.client import Client
from telemount.link import LEAST, MOST, LinkDown, open_link
from telemount.request import Request
from telewire import sftp
from telewire.sftp import Reader
from tests.telemount.conftest import free_port, until

HELLO = sftp.packet(sftp.VERSION, struct.pack(">I", 3))
Script = Callable[[socket.socket], None]


@pytest.fixture
def server() -> Iterator[Callable[[Script], int]]:
    """Runs a script for each connection, in order; returns the port."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*scripts: Script) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            for script in scripts:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock, contextlib.suppress(ConnectionError):
                    script(sock)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def say(data: bytes) -> Script:
    """Say ``data`` to whoever said something, until it hangs up."""

    def script(sock: socket.socket) -> None:
        if sock.recv(1000) and data:
            sock.sendall(data)
        while sock.recv(65536):
            pass

    return script


def requests(sock: socket.socket) -> Iterator[tuple[int, int, Reader]]:
    """Give the client's requests: type, number, the rest."""
    splitter = sftp.PacketSplitter()
    while data := sock.recv(65536):
        for packet in splitter.feed(data):
            reader = Reader(packet)
            kind = reader.u8()
            yield kind, reader.u32(), reader


def connect(port: int, token: str = "", limit: float = 2.0) -> Callable[[], object]:
    return partial(open_link, "127.0.0.1", port, token, "e1" if token else "", limit)


def test_the_export_line(server: Callable[..., int]) -> None:
    seen: list[bytes] = []

    def export(sock: socket.socket) -> None:
        seen.append(sock.recv(1000))
        sock.sendall(b"OK\n")
        seen.append(sock.recv(1000))
        sock.sendall(
            sftp.packet(sftp.VERSION, struct.pack(">I", 3), *map(sftp.pack_string, (b"limits@openssh.com", b"1")))
        )
        sock.recv(1)

    link = open_link("127.0.0.1", server(export), "t0ken", "e1", 2)
    assert seen == [b"SFTP/1 t0ken e1\n", sftp.packet(sftp.INIT, struct.pack(">I", 3))]
    assert link.extensions == {"limits@openssh.com": b"1"}
    assert link.most == MOST
    link.close()


def test_a_bare_server(server: Callable[..., int]) -> None:
    link = open_link("127.0.0.1", server(say(HELLO)), "", "", 2)
    assert link.most == LEAST
    link.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"ERR wrong token\n", "the daemon does not export e1: wrong token"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request"),
        (b"x" * 5000, "has no end"),
        (b"", "does not answer"),
        (b"OK\nGET / HTTP/1.1", "does not speak SFTP"),
        (b"OK\n" + sftp.packet(sftp.STATUS, b"\0\0\0\0"), "does not speak SFTP"),
        (b"OK\n" + sftp.packet(sftp.VERSION, b"\0\0\0\2"), "version 3"),
    ],
)
def test_what_refuses_is_told(server: Callable[..., int], said: bytes, why: str) -> None:
    port = server(say(said))
    began = time.monotonic()
    with pytest.raises(LinkDown) as caught:
        open_link("127.0.0.1", port, "t0ken", "e1", 1)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 3


def test_nobody_is_there() -> None:
    port = free_port()
    with pytest.raises(
        LinkDown, match=f"cannot reach the SFTP server at 127.0.0.1:{port}: Connection refused; is it running"
    ):
        open_link("127.0.0.1", port, "", "", 1)
    with pytest.raises(LinkDown, match=r"\[::1\]:"):
        open_link("::1", port, "", "", 1)


def test_silence_is_a_dead_connection(server: Callable[..., int]) -> None:
    def answers(sock: socket.socket) -> None:
        for kind, number, _ in requests(sock):
            sock.sendall(HELLO if kind == sftp.INIT else sftp.request(sftp.ATTRS, number, bytes(4)))

    client = Client(connect(server(say(HELLO), answers)), patience=5, silence=1)  # type: ignore[arg-type]
    client.start()
    try:
        assert client.call(sftp.LSTAT, sftp.pack_string(b"/")).attrs() == sftp.Attrs()
    finally:
        client.stop()


def test_order_is_kept_when_connected_again(server: Callable[..., int]) -> None:
    seen: list[bytes] = []

    def breaks(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(HELLO)
        sock.recv(1)

    def answers(sock: socket.socket) -> None:
        for kind, number, reader in requests(sock):
            if kind == sftp.INIT:
                time.sleep(0.3)
                sock.sendall(HELLO)
            else:
                seen.append(reader.string())
                sock.sendall(sftp.request(sftp.STATUS, number, bytes(4)))

    client = Client(connect(server(breaks, answers)), patience=5)  # type: ignore[arg-type]
    client.start()
    try:
        asked = []
        for number in range(300):
            asked.append(client.submit(Request(sftp.MKDIR, sftp.pack_string(b"%d" % number))))
            time.sleep(0.002)
        for request in asked:
            request.wait().status()
        assert seen == [b"%d" % number for number in range(300)]
        assert asked[0].resent
        assert not asked[-1].resent
    finally:
        client.stop()


def test_what_cannot_be_repeated_fails(server: Callable[..., int]) -> None:
    def breaks(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(HELLO)
        sock.recv(1)

    client = Client(connect(server(breaks, say(HELLO))), patience=1)  # type: ignore[arg-type]
    client.start()
    try:
        request = client.submit(Request(sftp.WRITE, b"", repeat=False)).wait()
        assert request.error == errno.ECONNRESET
    finally:
        client.stop()


def test_without_a_server_all_ends_in_bounded_time() -> None:
    client = Client(connect(free_port()), patience=0.5)  # type: ignore[arg-type]
    with pytest.raises(LinkDown):
        client.start()
    client.start(wait=False)
    try:
        began = time.monotonic()
        assert client.call(sftp.LSTAT, sftp.pack_string(b"/")).error == errno.EIO
        assert time.monotonic() - began < 3
        waiting = client.submit(Request(sftp.LSTAT, b""))
    finally:
        client.stop()
    assert waiting.wait().error == errno.EIO
    assert client.call(sftp.LSTAT, sftp.pack_string(b"/")).error == errno.EIO


def test_extensions_that_are_not_there(server: Callable[..., int]) -> None:
    client = Client(connect(server(say(HELLO))))  # type: ignore[arg-type]
    client.start()
    try:
        until(lambda: client.connected)
        with pytest.raises(OSError, match="not supported"):
            client.extended(sftp.EXT_STATVFS, sftp.pack_string(b"/")).fields()
    finally:
        client.stop()
