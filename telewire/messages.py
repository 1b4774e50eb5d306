"""What is said on a stream before its bytes: one JSON message each way, and datagrams (``docs/architecture.md``, Streams)."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

from telewire.errors import TeleError
from telewire.stream import Stream

if TYPE_CHECKING:
    from telewire.session import Session

LENGTH = struct.Struct(">I")
DATAGRAM = struct.Struct(">H")
MESSAGE_LIMIT = 4 << 20


class AgentError(TeleError):
    """The other end could not do what a message asked for."""

    kind = "failed"
    code = "unavailable"


class Refused(AgentError):
    """The address refuses connections."""

    kind = "refused"


class Unreachable(AgentError):
    """There is no way to the address."""

    kind = "unreachable"


class TimedOut(AgentError):
    """No answer came in time."""

    kind = "timeout"


class NotPermitted(AgentError):
    """The other end may not do that."""

    kind = "forbidden"
    code = "forbidden"


class Missing(AgentError):
    """A name or a file is not there."""

    kind = "not-found"
    code = "not-found"


_KINDS: dict[str, type[AgentError]] = {
    error.kind: error for error in (AgentError, Refused, Unreachable, TimedOut, NotPermitted, Missing)
}


def error_for(answer: dict[str, Any]) -> AgentError:
    """Return the error that an answer with ``"ok": false`` tells."""
    return _KINDS.get(str(answer.get("error")), AgentError)(str(answer.get("text") or answer.get("error") or "failed"))


def send_message(stream: Stream, message: dict[str, Any]) -> None:
    """Send one message."""
    body = json.dumps(message, separators=(",", ":")).encode()
    stream.write(LENGTH.pack(len(body)) + body)


async def read_message(stream: Stream, timeout: float = 30.0) -> dict[str, Any]:
    """Return the next message. TimedOut, ConnectionResetError, IncompleteReadError, or TeleError if it is none."""
    try:
        async with asyncio.timeout(timeout):
            (size,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
            if size > MESSAGE_LIMIT:
                raise TeleError(f"a message of {size} bytes is too long; the peers' versions differ")
            message = json.loads(await stream.readexactly(size))
    except TimeoutError:
        raise TimedOut(f"the other end did not answer within {timeout:g} s") from None
    except (ValueError, RecursionError) as error:
        raise TeleError(f"the other end sent no JSON: {error}") from None
    if not isinstance(message, dict):
        raise TeleError("the other end sent no JSON object; the peers' versions differ")
    return message


async def request(session: Session, message: dict[str, Any], timeout: float = 30.0) -> tuple[Stream, dict[str, Any]]:
    """Open a stream, send ``message``, return the stream and the answer; an AgentError if it says no."""
    stream = session.open_stream()
    try:
        send_message(stream, message)
        answer = await read_message(stream, timeout)
        if not answer.get("ok"):
            raise error_for(answer)
    except (EOFError, ConnectionError) as error:
        stream.abort()
        raise AgentError(f"the agent went away: {error}") from None
    except BaseException:
        stream.abort()
        raise
    return stream, answer


def refuse(stream: Stream, kind: str, text: str) -> None:
    """Answer no: ``kind`` is one of the contract's, ``text`` one line. Closes the stream."""
    send_message(stream, {"ok": False, "error": kind, "text": text})
    stream.close()


def pack_datagram(data: bytes) -> bytes:
    """Return ``data`` with its two bytes of length."""
    return DATAGRAM.pack(len(data)) + data


class DatagramReader:
    """Cuts a byte stream into the datagrams that :func:`pack_datagram` made. Sans-io."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the datagrams that are whole now."""
        self._buffer += data
        found, position = [], 0
        while len(self._buffer) - position >= DATAGRAM.size:
            (size,) = DATAGRAM.unpack_from(self._buffer, position)
            if len(self._buffer) - position - DATAGRAM.size < size:
                break
            position += DATAGRAM.size
            found.append(bytes(self._buffer[position : position + size]))
            position += size
        del self._buffer[:position]
        return found
