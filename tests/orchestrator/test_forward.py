"""What makes the handler's ``localhost:PORT`` the pod's: TCP with half-closes and resets, UDP, and its end."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from teledaemon import forward

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


def free_port() -> int:
    """Return a port that is free on both loopback addresses, for TCP and UDP."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = int(first.getsockname()[1])
            try:
                stack.enter_context(socket.create_server(("::1", port), family=socket.AF_INET6))
                for family, address in FAMILIES:
                    stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)).bind((address, port))
            except OSError:
                continue
            return port


@contextlib.contextmanager
def forwarding(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program until it is ready; it ends at once when it is told to."""
    command = [sys.executable, "-I", "-m", "teledaemon.forward", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            assert child.wait(5) == 0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_tcp_both_ways_with_half_closes(listener: socket.socket, family: socket.AddressFamily, address: str) -> None:
    port, big = free_port(), bytes(range(256)) * 8192
    with forwarding(f"{port}/tcp=127.0.0.1:{listener.getsockname()[1]}"), socket.socket(family) as client:
        client.settimeout(10)
        client.connect((address, port))
        there, _ = listener.accept()
        with there:
            there.settimeout(10)
            sender = threading.Thread(target=lambda: (client.sendall(big), client.shutdown(socket.SHUT_WR)))
            sender.start()
            with there.makefile("rb") as stream:
                assert stream.read() == big
            sender.join()
            there.sendall(b"after your end")
        with client.makefile("rb") as stream:
            assert stream.read() == b"after your end"


def test_a_reset_and_a_refusal_are_resets(listener: socket.socket) -> None:
    port = free_port()
    with forwarding(f"{port}/tcp=127.0.0.1:{listener.getsockname()[1]}"):
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            there, _ = listener.accept()
            client.sendall(b"x")
            assert there.recv(1) == b"x"
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            there.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        listener.close()
        # The reset may come before the connection has been told of.
        with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), 10) as client:
            client.recv(1)


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_udp_each_sender_gets_its_own_answers(family: socket.AddressFamily, address: str) -> None:
    port = free_port()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as one,
        socket.socket(family, socket.SOCK_DGRAM) as two,
    ):
        server.bind(("127.0.0.1", 0))
        for each in (server, one, two):
            each.settimeout(10)
        with forwarding(f"{port}/udp=127.0.0.1:{server.getsockname()[1]}"):
            for _ in range(3):
                for client, text in ((one, b"one"), (two, b"two"), (one, b"")):
                    client.sendto(text, (address, port))
                    data, peer = server.recvfrom(100)
                    assert data == text
                    server.sendto(b"re:" + data, peer)
                    assert client.recv(100) == b"re:" + text


def test_a_port_that_is_taken_is_told(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    command = [sys.executable, "-I", "-m", "teledaemon.forward", f"{port}/tcp=127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"localhost:{port}/tcp: ")
    assert len(done.stderr.splitlines()) == 1


def test_arguments() -> None:
    assert forward.parse("53/udp=[fd00::1]:40000") == forward.Forward(53, "udp", "fd00::1", 40000)
    for text in ("", "80=1.2.3.4:5", "80/sctp=1.2.3.4:5", "x/tcp=1.2.3.4:5", "80/tcp=5"):
        with pytest.raises(ValueError):  # noqa: PT011
            forward.parse(text)


def test_interfaces() -> None:
    head = "Inter-|   Receive\n face |bytes\n"
    assert not forward.has_interfaces(head + "    lo: 1 2\n")
    assert forward.has_interfaces(head + "    lo: 1 2\n  eth0: 3 4\n")
