"""The way to the pod's own application, past this agent's redirection but into that of agents further in.

Several agents may redirect the same port of a pod, each in a slot of its own. What an agent dials carries its slot as the socket's mark
(``SO_MARK``, socket(7)); each agent takes from the loopback only what comes from a higher slot (``teleagent.redirect``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from teleagent.transparent import LOOPBACK
from telewire import relay

MARK = 0x7E1E0000
"""The mark of slot 0; the four lowest bits are the slot."""
SLOTS = 16
SO_MARK = 36
DIAL_TIMEOUT = 10.0

_under_way: set[asyncio.Future[None]] = set()
_handed: set[asyncio.Future[None]] = set()


def track(work: asyncio.Future[None]) -> None:
    """Have :func:`settled` wait for ``work``: a connection that a client has, or will have, with the application by way of this process."""
    _under_way.add(work)
    work.add_done_callback(_under_way.discard)


def marked(slot: int, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that only agents in lower slots redirect. OSError, PermissionError without NET_ADMIN."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK | slot)
    except OSError:
        sock.close()
        raise
    return sock


def hosts(destination: str) -> tuple[socket.AddressFamily, list[str]]:
    """Return where an application that is meant by the address ``destination`` of the pod may listen, best first."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    return family, list(dict.fromkeys((LOOPBACK[family], destination)))


async def dial(slot: int, destination: str, port: int) -> asyncio.Transport:
    """Return a connection with the application, not reading yet. OSError if it refuses, TimeoutError."""
    loop = asyncio.get_running_loop()
    family, candidates = hosts(destination)
    failure: OSError = ConnectionRefusedError()
    async with asyncio.timeout(DIAL_TIMEOUT):
        for host in candidates:
            sock = marked(slot, family, socket.SOCK_STREAM)
            try:
                await loop.sock_connect(sock, (host, port))
                transport, waiting = await loop.create_connection(relay.Waiting, sock=sock)
            except OSError as error:
                sock.close()
                failure = error
                continue
            except BaseException:
                sock.close()
                raise
            if not waiting.lost:
                return transport
    raise failure


def join(client: asyncio.Transport, application: asyncio.Transport) -> asyncio.Future[None]:
    """Relay between the two; as ``telewire.relay.join``."""
    done = relay.join(client, application)
    track(done)
    return done


def flow(slot: int, host: str, port: int) -> socket.socket:
    """Return a UDP socket that is connected with the application at ``host``. OSError."""
    sock = marked(slot, socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def handed(client: asyncio.Transport, daemon: asyncio.Transport) -> None:
    """Relay between a client and the daemon; :func:`handed_settled` waits for it."""
    done = relay.join(client, daemon)
    _handed.add(done)
    done.add_done_callback(_handed.discard)


async def settled(seconds: float) -> None:
    """Wait until there is nothing more that :func:`track` was told of, ``seconds`` at most."""
    await _through(_under_way, seconds)


async def handed_settled(seconds: float) -> None:
    """Wait until the connections that the daemon has are through, ``seconds`` at most."""
    await _through(_handed, seconds)


async def _through(futures: set[asyncio.Future[None]], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while futures:
                await asyncio.wait(futures)
