"""Whether an address is there, asked in the ways that a pod may ask."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Coroutine
from typing import Any

from teleagent.dial import Address, resolve
from teleagent.request import kind_of
from telewire.messages import Missing, TimedOut, Unreachable

PING_TIMEOUT = 1.0
UNLIKELY_PORT = 65421
"""Where nobody listens: an address that is there says so."""
ECHO_REQUEST, ECHO_REPLY = {socket.AF_INET: 8, socket.AF_INET6: 128}, {socket.AF_INET: 0, socket.AF_INET6: 129}


async def _by_icmp(target: Address) -> bool:
    """Ask by an ICMP echo on an unprivileged socket (icmp(7)); False if the pod's ``ping_group_range`` forbids it."""
    family, address = target
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol)
    except PermissionError:
        return False
    with sock:
        sock.connect((address[0], 0))
        body = os.urandom(16)
        sock.send(struct.pack(">BBHHH", ECHO_REQUEST[family], 0, 0, 0, 1) + body)  # the kernel fills in checksum and ID
        while True:
            answer = await loop.sock_recv(sock, 128)
            if answer[:1] == bytes([ECHO_REPLY[family]]) and answer[8:] == body:
                return True


async def _by_tcp(target: Address) -> bool:
    """Ask by a TCP connection: accepted and refused both mean that somebody is there."""
    family, address = target
    with (
        socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock,
        contextlib.suppress(ConnectionRefusedError),
    ):
        await asyncio.get_running_loop().sock_connect(sock, address)
    return True


async def _by_udp(target: Address) -> bool:
    """Ask by an empty datagram: only the refusal of an address that is there comes back."""
    family, address = target
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(address)
        sock.send(b"")
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_recv(sock, 1)
    return True


async def ping(host: str) -> float:
    """Return the seconds that an answer of ``host`` took. Missing, TimedOut or Unreachable if none came."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    failure: OSError | None = None
    tasks: set[asyncio.Task[bool]] = set()
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            target = (await resolve(host, UNLIKELY_PORT))[0]
            ways: list[Coroutine[Any, Any, bool]] = [_by_icmp(target), _by_tcp(target), _by_udp(target)]
            waiting = tasks = {loop.create_task(way) for way in ways}
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if isinstance(error, OSError):
                        failure = error
                    elif task.result():
                        return loop.time() - started
    except socket.gaierror as error:
        if kind_of(error) == "not-found":
            raise Missing(f"{host}: the pod's DNS knows no such name") from None
        raise
    except TimeoutError:
        raise TimedOut(f"{host} did not answer within {PING_TIMEOUT:g} s") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failure is not None and failure.errno == errno.ETIMEDOUT:
        raise TimedOut(f"{host} does not answer")
    raise Unreachable(f"{host} cannot be reached from the pod: {failure.strerror if failure else 'no way to ask'}")
