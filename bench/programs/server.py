"""In a pod: bulk bytes on one port, small answers on the other. ``server.py BULK_PORT SMALL_PORT``.

Bulk: a line ``d BYTES`` is answered by so many bytes, ``u BYTES`` takes so many and answers ``ok``. Small: HTTP, one answer for each
connection.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

BLOCK = bytes(1 << 20)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def bulk(sock: socket.socket) -> None:
    """Serve one bulk connection."""
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = b""
        while not line.endswith(b"\n"):
            more = sock.recv(1)
            if not more:
                return
            line += more
        direction, count = line.split()
        left = int(count)
        if direction == b"d":
            while left:
                left -= sock.send(BLOCK[:left] if left < len(BLOCK) else BLOCK)
            return
        buffer = bytearray(1 << 20)
        while left:
            size = sock.recv_into(buffer)
            if not size:
                return
            left -= size
        sock.sendall(b"ok")


def accept(port: int) -> None:
    """Serve bulk connections, a thread each."""
    listener = socket.create_server(("", port), backlog=64)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_guarded, args=(sock,), daemon=True).start()


def _guarded(sock: socket.socket) -> None:
    try:
        bulk(sock)
    except OSError:
        return


class Small(asyncio.Protocol):
    """Answers as soon as the request has ended; who asks nothing is kept."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """Answer and close."""
        self._head += data
        if self._head.endswith(b"\r\n\r\n") and isinstance(self._transport, asyncio.WriteTransport):
            self._transport.write(ANSWER)
            self._transport.close()


async def main() -> None:
    """Serve until killed."""
    threading.Thread(target=accept, args=(int(sys.argv[1]),), daemon=True).start()
    server = await asyncio.get_running_loop().create_server(Small, "", int(sys.argv[2]), backlog=1024)
    await server.serve_forever()


asyncio.run(main())
