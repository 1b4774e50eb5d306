"""One SFTP request on its way, and a remote file handle that outlives connections."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

from telewire import sftp
from telewire.sftp import Attrs, FileEntry, Reader


def os_error(number: int) -> OSError:
    """Return the OSError of an errno."""
    return OSError(number, os.strerror(number))


class Handle:
    """A remote file handle. ``name`` is the server's, ``generation`` the connection's it belongs to; ``dead`` an errno or 0."""

    __slots__ = ("dead", "flags", "generation", "name", "path")

    def __init__(self, path: bytes, flags: int, name: bytes, generation: int) -> None:
        self.path = path
        self.flags = flags
        self.name = name
        self.generation = generation
        self.dead = 0

    @property
    def append(self) -> bool:
        """Whether the server puts what is written at the end, so that no write may be repeated."""
        return bool(self.flags & sftp.OPEN_APPEND)


class Request:
    """A request and, once it is there, its answer. Any thread may wait for it, the client's threads finish it.

    ``repeat``: what happens when the connection breaks before the answer: sent again, or failed with ECONNRESET. ``resent`` tells that
    it may have been done twice. ``extension`` is the name of an EXTENDED request.
    """

    __slots__ = (
        "_callback", "_gate", "body", "done", "error", "extension", "generation", "handle", "kind", "number", "repeat",
        "reply", "resent", "sent",
    )  # fmt: skip

    def __init__(
        self,
        kind: int,
        body: bytes,
        handle: Handle | None = None,
        *,
        extension: str = "",
        repeat: bool = True,
        callback: Callable[[Request], None] | None = None,
    ) -> None:
        self.kind = kind
        self.body = body
        self.handle = handle
        self.extension = extension
        self.repeat = repeat
        self.number = 0
        self.done = False
        self.resent = False
        self.sent = time.monotonic()
        self.reply = b""
        self.error = 0
        self.generation = 0
        self._callback = callback
        self._gate = threading.Lock()
        self._gate.acquire()

    def packet(self) -> bytes:
        """Return the bytes on the wire, with the handle as the server names it now."""
        name = sftp.pack_string(self.extension.encode()) if self.extension else b""
        handle = sftp.pack_string(self.handle.name) if self.handle else b""
        return sftp.request(self.kind, self.number, name, handle, self.body)

    def finish(self, reply: bytes, error: int = 0) -> None:
        """Take the answer (type byte, number, fields) or an errno; wake who waits. Called once."""
        self.reply = reply
        self.error = error
        self.done = True
        self._gate.release()
        if self._callback is not None:
            self._callback(self)

    def wait(self) -> Request:
        """Wait until it is answered; the client ends each request in bounded time."""
        if not self.done:
            self._gate.acquire()
            self._gate.release()
        return self

    # What follows reads an answer that is there; each raises the OSError that the answer means.

    def _reader(self, expected: int) -> Reader:
        if self.error:
            raise os_error(self.error)
        reader = Reader(self.reply)
        kind = reader.u8()
        reader.u32()
        if kind == sftp.STATUS:
            status = reader.u32()
            if status == sftp.OK and expected == sftp.STATUS:
                return reader
            number = sftp.errno_of(status, reader.string() if reader.rest else b"")
            raise os_error(number or errno.EBADMSG) if status != sftp.EOF else EOFError
        if kind != expected:
            raise os_error(errno.EBADMSG)
        return reader

    def status(self) -> None:
        """Take a STATUS that has to be good."""
        try:
            self._reader(sftp.STATUS)
        except EOFError:
            raise os_error(errno.EIO) from None

    def attrs(self) -> Attrs:
        """Take attributes."""
        return self._reader(sftp.ATTRS).attrs()

    def handle_name(self) -> bytes:
        """Take a new handle's name."""
        return self._reader(sftp.HANDLE).string()

    def data(self) -> memoryview:
        """Take bytes of a file; empty at its end."""
        try:
            return self._reader(sftp.DATA).view()
        except EOFError:
            return memoryview(b"")

    def names(self) -> list[tuple[bytes, Attrs]]:
        """Take names with their attributes; empty at the listing's end."""
        try:
            reader = self._reader(sftp.NAME)
        except EOFError:
            return []
        found = []
        for _ in range(reader.u32()):
            name = reader.string()
            reader.view()
            found.append((name, reader.attrs()))
        return found

    def entries(self) -> list[FileEntry]:
        """Take the answer to ``readfiles``."""
        return self._reader(sftp.EXTENDED_REPLY).file_entries()

    def fields(self) -> Reader:
        """Take an extension's answer."""
        return self._reader(sftp.EXTENDED_REPLY)
