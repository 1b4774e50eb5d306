"""One open file: reads ahead, writes behind, and a copy of the content if it came with its directory."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable

from telemount.client import Client
from telemount.readahead import Budget, Readahead
from telemount.request import Handle, Request, os_error
from telewire import sftp
from telewire.errors import TeleError
from telewire.sftp import Attrs

MOST_BEHIND = 8 << 20
"""Most bytes of one file that are written and not yet acknowledged."""


class OpenFile:
    """A file as one open(2) has it. ``path`` is the volume's and follows renames made here. Threads may use it."""

    def __init__(self, client: Client, path: bytes, flags: int, budget: Budget, full: Callable[[bytes], bytes]) -> None:
        self.path = path
        self.flags = flags
        self.size = 0
        """The file's size as last seen; 0 also if it is told at the end only, as below ``/proc``."""
        self.plain = False
        """Reads are passed on one by one: the size tells nothing."""
        self.fresh: Attrs | None = None
        """Attributes that came with its creation: the kernel asks for them next."""
        self._client = client
        self._full = full
        self._handle: Handle | None = None
        self._content: bytes | None = None
        self._opening = threading.Lock()
        self._ahead = Readahead(self._submit_read, client.most, budget)
        self._turn = threading.Condition()
        self._behind = 0
        self._error = 0

    @property
    def handle(self) -> Handle | None:
        """The remote handle, if there is one."""
        return self._handle

    def take(self, handle: Handle) -> None:
        """Use ``handle`` for all that follows."""
        self._handle = handle

    def take_content(self, content: bytes) -> None:
        """Read from ``content``, until the file is changed here."""
        self._content = content
        self.size = len(content)

    def changed(self) -> None:
        """Forget what was read: the file has been changed, by this or by another open file."""
        self._content = None
        self._ahead.forget()

    def read(self, offset: int, target: memoryview) -> int:
        """Fill ``target`` from ``offset`` on; return how many bytes there were. OSError."""
        content = self._content
        if content is not None:
            part = content[offset : offset + len(target)]
            target[: len(part)] = part
            return len(part)
        self._need_handle()
        if self.plain:
            part_seen = self._submit_read(offset, min(len(target), self._client.most)).wait().data()[: len(target)]
            target[: len(part_seen)] = part_seen
            return len(part_seen)
        return self._ahead.read(offset, target, self.size)

    def _need_handle(self) -> Handle:
        with self._opening:
            if self._handle is None:
                self._handle = self._client.open(self._full(self.path), sftp.OPEN_READ)
            return self._handle

    def _submit_read(self, offset: int, size: int) -> Request:
        return self._client.submit(Request(sftp.READ, struct.pack(">QI", offset, size), self._handle))

    def write(self, offset: int, data: bytes) -> None:
        """Send ``data``; wait only while much is on its way. OSError, also of an earlier write."""
        handle = self._handle
        if handle is None:
            raise os_error(errno.EBADF)
        most = self._client.most
        self._ahead.forget()
        for start in range(0, len(data), most):
            part = data[start : start + most]
            with self._turn:
                while self._behind >= MOST_BEHIND:
                    self._turn.wait()
                if self._error:
                    raise os_error(self._error)
                self._behind += len(part)
            body = struct.pack(">QI", offset + start, len(part)) + part
            self._client.submit(
                Request(sftp.WRITE, body, handle, repeat=not handle.append, callback=self._wrote(len(part)))
            )
        self.size = max(self.size, offset + len(data))

    def _wrote(self, size: int) -> Callable[[Request], None]:
        def done(request: Request) -> None:
            number = 0
            try:
                request.status()
            except OSError as error:
                number = error.errno or errno.EIO
            except TeleError:
                number = errno.EIO
            with self._turn:
                self._behind -= size
                # A write that came too late or was lost is EIO whatever broke on the way.
                self._error = self._error or (errno.EIO if number == errno.ECONNRESET else number)
                self._turn.notify_all()

        return done

    def flush(self) -> None:
        """Wait until all that was written is acknowledged. OSError tells, once, what went wrong since the last time."""
        with self._turn:
            while self._behind:
                self._turn.wait()
            number, self._error = self._error, 0
        if number:
            raise os_error(number)

    def sync(self) -> None:
        """Flush, and have the server put the file on its disk. OSError."""
        self.flush()
        if self._handle is None or self.flags & os.O_ACCMODE == os.O_RDONLY:
            return
        if sftp.EXT_FSYNC in self._client.extensions:
            self._client.extended(sftp.EXT_FSYNC, handle=self._handle).status()

    def close(self) -> None:
        """Give back what it holds."""
        self._ahead.forget()
        if self._handle is not None:
            self._client.close(self._handle)
