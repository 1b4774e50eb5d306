"""Remote files by path: each call is one SFTP request or few, and raises OSError as the system call would."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

from telemount.cache import Listing
from telemount.client import Client
from telemount.eager import SMALL
from telemount.request import Handle, Request, os_error
from telewire import sftp
from telewire.sftp import READFILES_BYTES, Attrs, pack_string

READDIRS = 16
"""Most READDIR requests on their way for one directory."""
KERNEL = (b"/proc", b"/sys", b"/dev")
"""Where reading a file may do something, so that none is read before it is asked for."""
TRIES = 3
"""Times that a listing is begun anew when the connection breaks in the middle."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A file system's sizes, as statvfs(3) has them."""

    block: int
    fragment: int
    blocks: int
    free: int
    available: int
    files: int
    free_files: int
    available_files: int
    id: int
    flags: int
    longest_name: int


class Remote:
    """The files of an SFTP server below ``root``. Paths are bytes, absolute, seen from the root."""

    def __init__(self, client: Client, root: str) -> None:
        self.client = client
        self._root = os.fsencode(root).rstrip(b"/")

    def full(self, path: bytes) -> bytes:
        """Return the server's path."""
        return (self._root + path.rstrip(b"/")) or b"/"

    def _packed(self, path: bytes) -> bytes:
        return pack_string(self.full(path))

    def lstat_soon(self, path: bytes) -> Request:
        """Ask for the attributes of ``path`` without waiting."""
        return self.client.submit(Request(sftp.LSTAT, self._packed(path)))

    def lstat(self, path: bytes) -> Attrs:
        """Return the attributes of ``path`` itself; at the root, of what it leads to."""
        if path == b"/":
            return self.client.call(sftp.STAT, self._packed(path)).attrs()
        return self.lstat_soon(path).wait().attrs()

    def fstat(self, handle: Handle) -> Attrs:
        """Return the attributes of an open file."""
        return self.client.submit(Request(sftp.FSTAT, b"", handle)).wait().attrs()

    def set(self, path: bytes, attrs: Attrs, *, link: bool = False) -> None:
        """Change attributes; with ``link`` those of a symbolic link itself."""
        if link:
            self.client.extended(sftp.EXT_LSETSTAT, self._packed(path), attrs.pack()).status()
        else:
            self.client.call(sftp.SETSTAT, self._packed(path), attrs.pack()).status()

    def fset(self, handle: Handle, attrs: Attrs) -> None:
        """Change an open file's attributes."""
        self.client.submit(Request(sftp.FSETSTAT, attrs.pack(), handle)).wait().status()

    def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target, as the remote has it."""
        names = self.client.call(sftp.READLINK, self._packed(path)).names()
        if len(names) != 1:
            raise os_error(errno.EIO)
        return names[0][0]

    def mkdir(self, path: bytes, mode: int) -> None:
        """Make a directory."""
        request = self.client.call(sftp.MKDIR, self._packed(path), Attrs(mode=stat.S_IMODE(mode)).pack())
        self._made(request, path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make ``path`` a symbolic link to ``target``."""
        # OpenSSH's order, which all servers follow, not the draft's.
        self._made(self.client.call(sftp.SYMLINK, pack_string(target), self._packed(path)), path)

    def link(self, old: bytes, new: bytes) -> None:
        """Make ``new`` another name of the file ``old``."""
        self._made(self.client.extended(sftp.EXT_HARDLINK, self._packed(old), self._packed(new)), new)

    def _made(self, request: Request, path: bytes) -> None:
        try:
            request.status()
        except OSError as error:
            if error.errno == errno.EEXIST and request.resent:
                return
            if error.errno == errno.EIO and self._is_there(path):  # SFTP's FAILURE says no more
                if request.resent:
                    return
                raise os_error(errno.EEXIST) from error
            raise

    def _is_there(self, path: bytes) -> bool:
        try:
            self.lstat(path)
        except OSError:
            return False
        return True

    def remove(self, path: bytes) -> None:
        """Remove what is no directory."""
        self._removed(self.client.call(sftp.REMOVE, self._packed(path)))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        try:
            self._removed(self.client.call(sftp.RMDIR, self._packed(path)))
        except OSError as error:
            if error.errno == errno.EIO and self.list(path)[0]:
                raise os_error(errno.ENOTEMPTY) from error
            raise

    def _removed(self, request: Request) -> None:
        try:
            request.status()
        except FileNotFoundError:
            if not request.resent:
                raise

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """Give ``old`` the name ``new``, atomically in place of what has it if ``replace`` and the server can."""
        paths = self._packed(old) + self._packed(new)
        if replace and sftp.EXT_POSIX_RENAME in self.client.extensions:
            request = self.client.extended(sftp.EXT_POSIX_RENAME, paths)
        else:
            request = self.client.call(sftp.RENAME, paths)
        try:
            request.status()
        except OSError as error:
            if error.errno == errno.ENOENT and request.resent and self._is_there(new):
                return
            if error.errno == errno.EIO and self._is_there(new):
                raise os_error(errno.ENOTEMPTY if replace else errno.EEXIST) from error
            raise

    def statvfs(self, path: bytes) -> Statistics:
        """Return the sizes of the file system that ``path`` is on. ENOTSUP if the server cannot tell."""
        reader = self.client.extended(sftp.EXT_STATVFS, self._packed(path)).fields()
        return Statistics(*(reader.u64() for _ in range(11)))

    def reads_many(self, path: bytes) -> bool:
        """Return whether contents can be had with a listing of ``path``."""
        inside = (self.full(path) + b"/").startswith(tuple(name + b"/" for name in KERNEL))
        return sftp.EXT_READFILES in self.client.extensions and not inside

    def list(self, path: bytes, *, contents: bool = False) -> tuple[Listing, dict[bytes, bytes] | None]:
        """Return the names in a directory with their attributes; with ``contents`` also what is in its small files, if possible."""
        if self.reads_many(path):
            sizes = struct.pack(">II", SMALL, READFILES_BYTES) if contents else struct.pack(">II", 0, 0)
            try:
                entries = self.client.extended(sftp.EXT_READFILES, self._packed(path), sizes).entries()
            except OSError as error:
                if error.errno not in (errno.E2BIG, errno.ENOTSUP):
                    raise
            else:
                found = {entry.name: entry.content for entry in entries if entry.content is not None}
                return {entry.name: entry.attrs for entry in entries}, found if contents else None
        return self._again(lambda: self._readdir(path)), None

    def _again(self, call: Callable[[], Listing]) -> Listing:
        for _ in range(TRIES - 1):
            try:
                return call()
            except ConnectionResetError:
                continue
        return call()

    def _readdir(self, path: bytes) -> Listing:
        handle = self.client.open_directory(self.full(path))
        found: dict[bytes, Attrs] = {}
        window = 1
        try:
            while True:
                # Several at once: the server answers in order, each with the names that follow.
                asked = [self.client.submit(Request(sftp.READDIR, b"", handle, repeat=False)) for _ in range(window)]
                for request in asked:
                    request.wait()
                ended = False
                for request in asked:
                    names = request.names()
                    ended = ended or not names
                    found.update((name, attrs) for name, attrs in names if name not in (b".", b".."))
                if ended:
                    return found
                window = min(2 * window, READDIRS)
        finally:
            self.client.close(handle)
