"""What a stream asks of the agent, and the one answer that it gets."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

from telewire.errors import TeleError
from telewire.messages import refuse, send_message
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

UNREACHABLE = frozenset(
    (
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
    )
)
"""No way to an address; the last two are how a packet filter in the pod says so."""


def kind_of(error: OSError) -> str:
    """Return the contract's word for an operating system's error."""
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, socket.gaierror):
        return "not-found" if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else "failed"
    if isinstance(error, FileNotFoundError):
        return "not-found"
    return "unreachable" if error.errno in UNREACHABLE else "failed"


class Request:
    """One stream that the daemon has opened: its message, and whether it was accepted."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self.session = session
        self.stream = stream
        self.message: dict[str, Any] = {}
        self.accepted = False

    def accept(self, **fields: Any) -> None:
        """Answer yes. What follows on the stream depends on the message."""
        self.accepted = True
        send_message(self.stream, {"ok": True, **fields})

    def answer(self, **fields: Any) -> None:
        """Answer yes, and that is all."""
        self.accept(**fields)
        self.stream.close()

    def fail(self, error: Exception) -> None:
        """Answer no with what ``error`` says; reset the stream if it was accepted before."""
        if not isinstance(error, (TeleError, OSError, EOFError, KeyError, ValueError, TypeError)) or (
            self.accepted and not isinstance(error, (TeleError, OSError, EOFError))
        ):
            log.error("%s: an error of the agent", self.message.get("op"), exc_info=error)
        if self.accepted or isinstance(error, EOFError):
            self.stream.abort()
        elif isinstance(error, TeleError):
            refuse(self.stream, getattr(error, "kind", "failed"), str(error))
        elif isinstance(error, OSError):
            refuse(self.stream, kind_of(error), str(error))
        elif isinstance(error, (KeyError, ValueError, TypeError)):
            refuse(self.stream, "failed", f"malformed message: {error!r}; the peers' versions differ")
        else:
            refuse(self.stream, "failed", f"error of the agent: {error!r}; its log says more")

    def address(self) -> tuple[str, int]:
        """Return the message's ``host`` and ``port``. ValueError if they cannot be."""
        host, port = str(self.message["host"]), int(self.message["port"])
        if not 0 < port < 65536 or not host or "\0" in host:
            raise ValueError(f"{host!r}:{port} is no address")
        return host, port
