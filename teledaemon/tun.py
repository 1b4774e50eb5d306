"""The TUN device (https://docs.kernel.org/networking/tuntap.html): packets that the kernel routes to it, read and written whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from telewire.errors import Unavailable

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MOST_AT_ONCE = 256
"""Packets read before other work has its turn."""


class Tun:
    """A TUN device named ``name``. Unavailable if it cannot be made."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        except OSError as error:
            raise Unavailable(
                f"the VIF {name} cannot be made: {error.strerror}; the daemon needs /dev/net/tun and NET_ADMIN"
            ) from None

    def read(self) -> list[bytes]:
        """Return the packets that are there, not more than a batch; empty if there are none."""
        packets: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while len(packets) < MOST_AT_ONCE:
                packets.append(os.read(self.fd, 65535))
        return packets

    def write(self, packet: bytes) -> None:
        """Hand a packet to the kernel as if it had come over the device; a full queue or a packet it dislikes loses it."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self.fd, packet)

    def close(self) -> None:
        """Remove the device."""
        os.close(self.fd)
