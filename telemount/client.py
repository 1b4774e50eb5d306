"""The SFTP client: many requests at once on one connection, which is made again when it breaks; open files live on."""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
import threading
import time
from collections.abc import Callable

from telemount.link import LEAST, Link, LinkDown
from telemount.request import Handle, Request
from telewire import sftp
from telewire.sftp import Attrs, SftpError

log = logging.getLogger(__name__)

PATIENCE = 15.0
"""Seconds that a request waits for a lost connection to come back before it fails with EIO."""
IMPATIENCE = 1.0
"""Seconds that it waits once ``PATIENCE`` has been used up by others."""
SILENCE = 30.0
"""Seconds without any answer while one is due, after which the connection counts as dead."""
BACK_OFF = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the tries to connect again; the last one goes on."""
REOPEN = 32
"""Files opened anew at a time after a connection was lost."""
NO_REOPEN = sftp.OPEN_CREAT | sftp.OPEN_EXCL | sftp.OPEN_TRUNC
"""What opening a file did, and must not do again."""


class Client:
    """Sends requests from any thread. Each one ends: answered, or failed in bounded time when there is nobody to answer."""

    def __init__(self, connect: Callable[[], Link], *, patience: float = PATIENCE, silence: float = SILENCE) -> None:
        """``connect`` opens a connection or raises LinkDown, within few seconds."""
        self._connect = connect
        self._patience = patience
        self._silence = silence
        self._turn = threading.Lock()
        self._link: Link | None = None
        self._repeating = False
        self._pending: dict[int, Request] = {}
        self._handles: set[Handle] = set()
        self._number = 0
        self._generation = 0
        self._received = self._down_since = time.monotonic()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.extensions: dict[str, bytes] = {}
        self.most = LEAST
        """Most bytes in one READ or WRITE."""

    def start(self, *, wait: bool = True) -> None:
        """Connect and keep connected. LinkDown if there is no connection now, unless ``wait`` is false."""
        if wait:
            self._install(self._connect(), {})
        for run in (self._keep, self._watch):
            thread = threading.Thread(target=run, name=f"sftp{run.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Close the connection; what is pending fails."""
        self._ended.set()
        with self._turn:
            if self._link is not None:
                self._link.shut()
        for thread in self._threads:
            thread.join(5)
        self._fail(list(self._pending.values()), errno.EIO)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    # Requests

    def submit(self, request: Request) -> Request:
        """Send ``request``, or keep it until there is a connection; do not wait for its answer."""
        handle = request.handle
        with self._turn:
            if self._ended.is_set():
                request.finish(b"", errno.EIO)
                return request
            if handle is not None and (handle.dead or (handle not in self._handles and self._gone(handle))):
                request.finish(b"", handle.dead or errno.ECONNRESET)
                return request
            self._number = (self._number + 1) & 0xFFFFFFFF
            request.number = self._number
            request.sent = time.monotonic()
            self._pending[request.number] = request
            if self._link is not None and not self._repeating:
                self._send(self._link, request)
        return request

    def call(self, kind: int, *parts: bytes, repeat: bool = True) -> Request:
        """Send a request and wait for its answer."""
        return self.submit(Request(kind, b"".join(parts), repeat=repeat)).wait()

    def extended(self, name: str, *parts: bytes, handle: Handle | None = None) -> Request:
        """Send an extended request and wait for its answer. It fails with ENOTSUP if the server does not announce ``name``."""
        request = Request(sftp.EXTENDED, b"".join(parts), handle, extension=name)
        if name not in self.extensions:
            request.finish(b"", errno.ENOTSUP)
            return request
        return self.submit(request).wait()

    def open(
        self, path: bytes, flags: int, attrs: Attrs | None = None, then: Callable[[], None] | None = None
    ) -> Handle:
        """Open a file; the handle stays usable when the connection is made again. OSError.

        ``then`` is called when the request is on its way, to send more in the same round trip.
        """
        body = sftp.pack_string(path) + struct.pack(">I", flags) + (attrs or Attrs()).pack()
        while True:
            # Exclusive creation cannot be repeated: the second try would find the first one's file.
            request = self.submit(Request(sftp.OPEN, body, repeat=not flags & sftp.OPEN_EXCL))
            if then is not None:
                then()
            request.wait()
            handle = Handle(path, flags & ~NO_REOPEN, request.handle_name(), request.generation)
            with self._turn:
                if handle.generation == self._generation:
                    self._handles.add(handle)
                    return handle
            flags &= ~NO_REOPEN
            body = sftp.pack_string(path) + struct.pack(">I", flags) + Attrs().pack()

    def open_directory(self, path: bytes) -> Handle:
        """Open a directory; the handle is good for this connection only. OSError."""
        request = self.call(sftp.OPENDIR, sftp.pack_string(path))
        return Handle(path, 0, request.handle_name(), request.generation)

    def close(self, handle: Handle) -> None:
        """Close a handle without waiting."""
        with self._turn:
            self._handles.discard(handle)
            if handle.dead or self._gone(handle) or self._link is None:
                return
        self.submit(Request(sftp.CLOSE, b"", handle, repeat=False, callback=_closed))

    def renamed(self, old: bytes, new: bytes) -> None:
        """Remember that open files at or below ``old`` are at or below ``new`` now."""
        with self._turn:
            for handle in self._handles:
                if handle.path == old or handle.path.startswith(old + b"/"):
                    handle.path = new + handle.path[len(old) :]

    def _gone(self, handle: Handle) -> bool:
        return handle.generation != self._generation

    def _send(self, link: Link, request: Request) -> None:
        request.generation = self._generation
        try:
            link.sock.sendall(request.packet())
        except OSError as error:
            log.debug("sending failed: %s", error)
            link.shut()

    # The thread that reads, and connects again

    def _keep(self) -> None:
        while not self._ended.is_set():
            link = self._link
            if link is not None:
                reason = self._read(link)
                if not self._ended.is_set():
                    log.warning("the connection to the SFTP server is lost: %s", reason)
                self._lost(link)
            self._again()
        if self._link is not None:
            self._lost(self._link)

    def _read(self, link: Link) -> str:
        try:
            while True:
                data = link.packet()
                self._received = time.monotonic()
                if len(data) < 5:
                    raise SftpError("the server sent a packet without a request number")
                request = self._pending.pop(int.from_bytes(data[1:5], "big"), None)
                if request is not None:
                    request.finish(data)
        except (EOFError, OSError, ValueError, SftpError) as error:
            return str(error)

    def _lost(self, link: Link) -> None:
        link.shut()  # wakes who is sending, and so holds the turn
        with self._turn:
            self._link = None
            self._down_since = time.monotonic()
            link.close()
            lost = [request for request in self._pending.values() if request.generation == self._generation]
            for request in lost:
                request.resent = True
            self._fail([request for request in lost if not request.repeat], errno.ECONNRESET)

    def _again(self) -> None:
        tries = 0
        told = ""
        while not self._ended.wait(BACK_OFF[min(tries, len(BACK_OFF) - 1)]):
            tries += 1
            try:
                link = self._connect()
            except LinkDown as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("%s; trying again", told)
                continue
            try:
                names: dict[Handle, bytes] = {}
                link.sock.settimeout(self._patience)
                while True:
                    with self._turn:
                        missing = [handle for handle in self._handles if not handle.dead and handle not in names]
                        if not missing:
                            link.sock.settimeout(None)
                            self._install(link, names)
                            return
                    for start in range(0, len(missing), REOPEN):
                        self._reopen(link, missing[start : start + REOPEN], names)
            except (EOFError, OSError, SftpError) as error:
                log.warning("the new connection broke at once: %s", error)
                link.close()

    def _reopen(self, link: Link, handles: list[Handle], names: dict[Handle, bytes]) -> None:
        requests = []
        for number, handle in enumerate(handles):
            body = sftp.pack_string(handle.path) + struct.pack(">I", handle.flags) + Attrs().pack()
            requests.append(Request(sftp.OPEN, body))
            requests[-1].number = number
            link.sock.sendall(requests[-1].packet())
        for _ in handles:
            data = link.packet()
            number = int.from_bytes(data[1:5], "big")
            if number >= len(requests):
                raise SftpError("the server answered what was not asked")
            requests[number].finish(data)
        for handle, request in zip(handles, requests, strict=True):
            try:
                names[handle] = request.handle_name()
            except OSError as error:
                log.warning("%r cannot be opened again: %s", handle.path, error.strerror)
                handle.dead = errno.ESTALE if error.errno == errno.ENOENT else error.errno or errno.EIO

    def _install(self, link: Link, names: dict[Handle, bytes]) -> None:
        """Use ``link`` from now on, after the first time with the turn; send what is pending."""
        self._generation += 1
        for handle, name in names.items():
            handle.name, handle.generation = name, self._generation
        self.extensions, self.most = link.extensions, link.most
        self._received = time.monotonic()
        self._link = link
        self._repeating = bool(self._pending)
        if self._repeating:
            log.info("connected again, repeating %d requests", len(self._pending))
            # Not here: this thread has to read the answers, or the server could not go on taking requests.
            threading.Thread(target=self._repeat, args=(link,), name="sftp_repeat", daemon=True).start()

    def _repeat(self, link: Link) -> None:
        """Send what is pending; what comes meanwhile waits behind it."""
        while True:
            with self._turn:
                if self._link is not link:
                    return
                todo = [request for request in self._pending.values() if request.generation != self._generation]
                if not todo:
                    self._repeating = False
                    return
            for request in todo:
                with self._turn:
                    if request.done or self._link is not link:
                        continue
                    handle = request.handle
                    if handle is not None and (handle.dead or self._gone(handle)):
                        self._fail([request], handle.dead or errno.ECONNRESET)
                    else:
                        self._send(link, request)

    # The thread that watches

    def _watch(self) -> None:
        while not self._ended.wait(min(0.5, self._patience / 4)):
            waiting = list(self._pending.values())
            if not waiting:
                continue
            now = time.monotonic()
            link = self._link
            if link is not None:
                if now - max(self._received, waiting[0].sent) > self._silence:
                    log.warning("the SFTP server has not answered for %g s", self._silence)
                    link.shut()
                continue
            with self._turn:
                until = self._down_since + self._patience
                if self._link is None:
                    late = [r for r in waiting if not r.done and now > max(until, r.sent + IMPATIENCE)]
                    self._fail(late, errno.EIO)

    def _fail(self, requests: list[Request], number: int) -> None:
        for request in requests:
            if self._pending.pop(request.number, None) is not None:
                request.finish(b"", number)


def _closed(request: Request) -> None:
    with contextlib.suppress(SftpError):
        try:
            request.status()
        except OSError as error:
            log.debug("closing a file failed: %s", error)
