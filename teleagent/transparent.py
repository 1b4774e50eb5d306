"""Sockets that packets for other ports are redirected to (https://docs.kernel.org/networking/tproxy.html)."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

from telewire.errors import Unavailable

BACKLOG = 1024
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""How a kernel or a pod without IPv6 refuses a socket."""
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

# Of linux/in.h and linux/in6.h; Python names only some of them.
IP_PKTINFO = 8
IP_TRANSPARENT = 19
IP_ORIGDSTADDR = 20
IPV6_PKTINFO = 50
IPV6_ORIGDSTADDR = 74
IPV6_TRANSPARENT = 75
_CONTROL_SPACE = socket.CMSG_SPACE(28)
"""Room for a ``sockaddr_in6``, the larger of the two."""


class NotPermitted(Unavailable):
    """This container may not redirect."""

    code = "forbidden"


def bound(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket | None:
    """Return a socket on the loopback that may stand for other addresses; listening, if it is for TCP. None without the family.

    NotPermitted without the capability; OSError.
    """
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in NO_FAMILY:
            return None
        raise
    try:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        if kind == socket.SOCK_STREAM:
            # What is accepted has the application's port: it must not keep that from binding its port again.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_ORIGDSTADDR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_ORIGDSTADDR, 1)
        sock.bind((LOOPBACK[family], 0))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except PermissionError:
        sock.close()
        raise NotPermitted(
            "redirecting needs the capability NET_ADMIN, which the agent's container does not have: start it as uid 0 with NET_ADMIN"
        ) from None
    except OSError as error:
        sock.close()
        if family == socket.AF_INET6 and error.errno in NO_FAMILY:
            return None
        raise
    return sock


def pair(kind: socket.SocketKind) -> list[socket.socket]:
    """Return such sockets for both families, or the one that there is. As :func:`bound`."""
    first = bound(socket.AF_INET, kind)
    assert first is not None
    try:
        second = bound(socket.AF_INET6, kind)
    except BaseException:
        first.close()
        raise
    return [first] if second is None else [first, second]


def receive(sock: socket.socket) -> tuple[bytes, Any, tuple[str, int]]:
    """Return a datagram, its sender's address, and the host and port that it was sent to. BlockingIOError if there is none; OSError."""
    data, control, _flags, sender = sock.recvmsg(65535, _CONTROL_SPACE)
    for _level, kind, value in control:
        if kind == IP_ORIGDSTADDR:
            return data, sender, (socket.inet_ntop(socket.AF_INET, value[4:8]), int.from_bytes(value[2:4], "big"))
        if kind == IPV6_ORIGDSTADDR:
            return data, sender, (socket.inet_ntop(socket.AF_INET6, value[8:24]), int.from_bytes(value[2:4], "big"))
    return data, sender, ("", 0)


def send(sock: socket.socket, data: bytes, to: Any, source: str) -> None:
    """Send a datagram that comes from the address ``source``. OSError."""
    if sock.family == socket.AF_INET:
        info = struct.pack("=i4s4x", 0, socket.inet_pton(socket.AF_INET, source))
        control = (socket.IPPROTO_IP, IP_PKTINFO, info)
    else:
        scope = to[3] if len(to) > 3 else 0
        control = (
            socket.IPPROTO_IPV6,
            IPV6_PKTINFO,
            socket.inet_pton(socket.AF_INET6, source) + struct.pack("=i", scope),
        )
    sock.sendmsg([data], [control], 0, to)
