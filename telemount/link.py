"""Opening one connection to an SFTP server: TCP, the export's first line if it has one, and the version exchange."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from telewire import sftp
from telewire.errors import TeleError, Unavailable
from telewire.sftp import Reader

SEND_LIMIT = 15
"""Seconds after which a send that makes no progress means a dead link."""
READ_BUFFER = 1 << 20
MOST = 256 * 1024 - 1024
"""Most bytes in one READ or WRITE to a server that announces ``limits@openssh.com``: what OpenSSH takes, as the agent does."""
LEAST = 32 * 1024
"""The same for a server that announces nothing: every server has to take it (draft-ietf-secsh-filexfer-02, 3)."""


class LinkDown(Unavailable):
    """The SFTP server cannot be reached, refused, or does not speak SFTP."""


@dataclass(slots=True)
class Link:
    """One connection that speaks SFTP version 3."""

    sock: socket.socket
    stream: BinaryIO
    extensions: dict[str, bytes] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """Most bytes in one READ or WRITE."""
        return MOST if sftp.EXT_LIMITS in self.extensions else LEAST

    def packet(self) -> bytes:
        """Return the next packet, type byte first. EOFError at the end, SftpError for nonsense, OSError when it broke."""
        # A server without TCP_NODELAY holds its second answer back until the first one is acknowledged: do not wait 40 ms with that.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        head = self.stream.read(4)
        if head is None or len(head) < 4:
            raise EOFError("the server closed the connection")
        size = int.from_bytes(head, "big")
        if not 1 <= size <= sftp.MAX_PACKET + 65536:
            raise sftp.SftpError(f"an SFTP packet says it has {size} bytes; the other end does not speak SFTP")
        data = self.stream.read(size)
        if data is None or len(data) < size:
            raise EOFError("the server closed the connection in the middle of a packet")
        return data

    def shut(self) -> None:
        """Wake whoever reads; it sees the end of the stream."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the connection."""
        self.shut()
        with contextlib.suppress(OSError):
            self.stream.close()
        self.sock.close()


def _options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_LIMIT * 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_LIMIT, 0))


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError("the server closed the connection")
        data += more
    return data


def _line(sock: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        if len(line) > 4096:
            raise sftp.SftpError("the answer to the export's first line has no end")
        line += _receive(sock, 1)
    return line.decode(errors="replace").strip()


def _exchange(sock: socket.socket, token: str, export: str) -> dict[str, bytes]:
    """Speak the first line (if there is a token) and INIT; return the server's extensions."""
    if token:
        sock.sendall(f"SFTP/1 {token} {export}\n".encode())
        answer = _line(sock)
        if answer != "OK":
            reason = answer.removeprefix("ERR ") or "no reason told"
            raise LinkDown(f"the daemon does not export {export}: {reason}")
    sock.sendall(sftp.packet(sftp.INIT, struct.pack(">I", 3)))
    size = int.from_bytes(_receive(sock, 4), "big")
    if not 5 <= size <= 65536:
        raise sftp.SftpError("the server does not speak SFTP")
    reader = Reader(_receive(sock, size))
    if reader.u8() != sftp.VERSION or reader.u32() < 3:
        raise sftp.SftpError("the server does not speak SFTP version 3")
    extensions = {}
    while reader.rest:
        name = reader.string().decode(errors="replace")
        extensions[name] = reader.string()
    return extensions


def open_link(host: str, port: int, token: str, export: str, limit: float) -> Link:
    """Return a new connection within ``limit`` seconds. LinkDown says why there is none."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    deadline = time.monotonic() + limit
    try:
        sock = socket.create_connection((host, port), timeout=limit)
    except OSError as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise LinkDown(f"cannot reach the SFTP server at {where}: {reason}; is it running?") from error
    try:
        _options(sock)
        sock.settimeout(max(0.1, deadline - time.monotonic()))
        extensions = _exchange(sock, token, export)
        sock.settimeout(None)
        # settimeout sets the descriptor's mode only: SO_SNDTIMEO stays.
        return Link(sock, cast("BinaryIO", sock.makefile("rb", buffering=READ_BUFFER)), extensions)
    except LinkDown:
        sock.close()
        raise
    except TimeoutError as error:
        sock.close()
        raise LinkDown(f"the SFTP server at {where} accepts connections but does not answer") from error
    except (OSError, EOFError, TeleError) as error:
        sock.close()
        raise LinkDown(f"the SFTP server at {where} cannot be used: {error}") from error
