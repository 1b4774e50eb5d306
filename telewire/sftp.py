"""SFTP version 3 packets (draft-ietf-secsh-filexfer-02), bare on TCP, shared by the agent's server and Telemount's client. Sans-io.

On the wire: u32 length, u8 type, body; all but INIT and VERSION begin their body with a u32 request number. Strings have a u32 length.
Requests are at most :data:`MAX_REQUEST` long, READ and WRITE carry at most :data:`MAX_DATA` bytes; the server says so itself by
``limits@openssh.com`` (no body; EXTENDED_REPLY: u64 longest packet, u64 longest read, u64 longest write, u64 most open handles).

Of OpenSSH's extensions (its PROTOCOL file) the server knows ``statvfs@``, ``posix-rename@``, ``fsync@``, ``hardlink@``,
``lsetstat@`` and ``limits@openssh.com``. One is ours, announced in the server's VERSION and never required:

``readfiles@telepresence.io``: string directory, u32 most bytes of one file, u32 most bytes of all files' contents. Answered by
EXTENDED_REPLY: u32 count, then for each entry (:class:`FileEntry`): string name, u32 errno, attributes, and if errno is 0 string
content. The listing is complete, without ``.`` and ``..``; the content is that of the whole file. The errno of an entry says why there is
none: EFBIG (larger than what was asked for, or than what is left of it), EINVAL (no regular file; the attributes are those of lstat),
EAGAIN (it changed while it was read), else why it cannot be read. A directory too large for one answer is STATUS with ``errno=7``
(E2BIG): use READDIR, which carries attributes as well.

The text of a STATUS begins with ``errno=N `` where the server knows the exact error; :func:`errno_of` reads it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass

from telewire.errors import TeleError

(
    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH,
    STAT, RENAME, READLINK, SYMLINK,
) = range(1, 21)  # fmt: skip
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201

OPEN_READ, OPEN_WRITE, OPEN_APPEND, OPEN_CREAT, OPEN_TRUNC, OPEN_EXCL = 1, 2, 4, 8, 16, 32
ATTR_SIZE, ATTR_UIDGID, ATTR_PERMISSIONS, ATTR_TIMES, ATTR_EXTENDED = 1, 2, 4, 8, 0x80000000

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, NO_CONNECTION, CONNECTION_LOST, UNSUPPORTED = range(9)

EXT_STATVFS = "statvfs@openssh.com"
EXT_POSIX_RENAME = "posix-rename@openssh.com"
EXT_FSYNC = "fsync@openssh.com"
EXT_HARDLINK = "hardlink@openssh.com"
EXT_LSETSTAT = "lsetstat@openssh.com"
EXT_LIMITS = "limits@openssh.com"
EXT_READFILES = "readfiles@telepresence.io"

MAX_DATA = 256 * 1024
"""Most bytes in one READ or WRITE that both our ends use; OpenSSH allows the same."""
MAX_REQUEST = MAX_DATA + 64 * 1024
"""Longest packet that a server need accept."""
MAX_PACKET = 8 << 20
"""Longest packet that a client need accept: an answer to ``readfiles``."""
READFILES_BYTES = 4 << 20
"""Most bytes of contents in one answer to ``readfiles``, whatever was asked for."""

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class SftpError(TeleError):
    """The peer sent what is no SFTP packet."""


def pack_string(data: bytes) -> bytes:
    """Return ``data`` with its length."""
    return _U32.pack(len(data)) + data


def packet(kind: int, *parts: bytes) -> bytes:
    """Return a whole packet: length, type, parts."""
    return struct.pack(">IB", 1 + sum(map(len, parts)), kind) + b"".join(parts)


def request(kind: int, number: int, *parts: bytes) -> bytes:
    """Return a packet with a request number."""
    return struct.pack(">IBI", 5 + sum(map(len, parts)), kind, number) + b"".join(parts)


class Reader:
    """Takes a packet's fields one after the other. SftpError when it is too short."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._position = 0

    @property
    def rest(self) -> memoryview:
        """What has not been taken."""
        return self._data[self._position :]

    def _take(self, size: int) -> memoryview:
        end = self._position + size
        if end > len(self._data):
            raise SftpError("an SFTP packet is shorter than it says")
        part = self._data[self._position : end]
        self._position = end
        return part

    def u8(self) -> int:
        """Take one byte."""
        return self._take(1)[0]

    def u32(self) -> int:
        """Take four bytes."""
        return int(_U32.unpack(self._take(4))[0])

    def u64(self) -> int:
        """Take eight bytes."""
        return int(_U64.unpack(self._take(8))[0])

    def view(self) -> memoryview:
        """Take a string without copying it."""
        return self._take(self.u32())

    def string(self) -> bytes:
        """Take a string."""
        return bytes(self.view())

    def attrs(self) -> Attrs:
        """Take attributes."""
        flags = self.u32()
        attrs = Attrs()
        if flags & ATTR_SIZE:
            attrs.size = self.u64()
        if flags & ATTR_UIDGID:
            attrs.uid, attrs.gid = self.u32(), self.u32()
        if flags & ATTR_PERMISSIONS:
            attrs.mode = self.u32()
        if flags & ATTR_TIMES:
            attrs.atime, attrs.mtime = self.u32(), self.u32()
        if flags & ATTR_EXTENDED:
            for _ in range(self.u32()):
                self.string()
                self.string()
        return attrs

    def file_entries(self) -> list[FileEntry]:
        """Take the entries of an answer to ``readfiles``."""
        found = []
        for _ in range(self.u32()):
            name, error, attrs = self.string(), self.u32(), self.attrs()
            found.append(FileEntry(name, error, attrs, None if error else self.string()))
        return found


@dataclass(slots=True)
class Attrs:
    """A file's attributes, each None if not told: bytes, numbers, ``st_mode``, seconds since the epoch."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    atime: int | None = None
    mtime: int | None = None

    @classmethod
    def of(cls, found: os.stat_result) -> Attrs:
        """Return the attributes that ``found`` tells; times outside 32 bits are cut to what fits."""
        fits = 0xFFFFFFFF
        return cls(
            found.st_size, found.st_uid, found.st_gid, found.st_mode,
            min(max(int(found.st_atime), 0), fits), min(max(int(found.st_mtime), 0), fits),
        )  # fmt: skip

    def pack(self) -> bytes:
        """Return the attributes as SFTP has them."""
        flags, parts = 0, []
        if self.size is not None:
            flags |= ATTR_SIZE
            parts.append(_U64.pack(self.size))
        if self.uid is not None and self.gid is not None:
            flags |= ATTR_UIDGID
            parts.append(struct.pack(">II", self.uid, self.gid))
        if self.mode is not None:
            flags |= ATTR_PERMISSIONS
            parts.append(_U32.pack(self.mode))
        if self.atime is not None and self.mtime is not None:
            flags |= ATTR_TIMES
            parts.append(struct.pack(">II", self.atime, self.mtime))
        return _U32.pack(flags) + b"".join(parts)

    @property
    def is_directory(self) -> bool:
        """Whether the mode says directory."""
        return self.mode is not None and stat.S_ISDIR(self.mode)


@dataclass(slots=True)
class FileEntry:
    """One entry of an answer to ``readfiles``: ``content`` is None if ``error`` (an errno) is not 0."""

    name: bytes
    error: int
    attrs: Attrs
    content: bytes | None = None

    def pack(self) -> bytes:
        """Return the entry as the extension has it."""
        content = b"" if self.error else pack_string(self.content or b"")
        return pack_string(self.name) + _U32.pack(self.error) + self.attrs.pack() + content


class PacketSplitter:
    """Cuts a byte stream into packets (type byte and body, without the length)."""

    def __init__(self, limit: int = MAX_PACKET) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take bytes; return the packets that are whole now. SftpError if a length makes no sense."""
        buffer = self._buffer
        buffer += data
        found, position = [], 0
        while len(buffer) - position >= 4:
            (size,) = _U32.unpack_from(buffer, position)
            if not 1 <= size <= self._limit:
                raise SftpError(f"an SFTP packet says it has {size} bytes; the other end does not speak SFTP")
            if len(buffer) - position - 4 < size:
                break
            found.append(bytes(memoryview(buffer)[position + 4 : position + 4 + size]))
            position += 4 + size
        if position:
            del buffer[:position]
        return found


_STATUS_OF = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.EACCES: PERMISSION_DENIED,
    errno.EPERM: PERMISSION_DENIED,
    errno.EROFS: PERMISSION_DENIED,
}
_ERRNO_OF = {
    EOF: 0, NO_SUCH_FILE: errno.ENOENT, PERMISSION_DENIED: errno.EACCES, FAILURE: errno.EIO, BAD_MESSAGE: errno.EBADMSG,
    NO_CONNECTION: errno.ENOTCONN, CONNECTION_LOST: errno.ECONNRESET, UNSUPPORTED: errno.ENOTSUP,
}  # fmt: skip


def status_of(number: int) -> tuple[int, bytes]:
    """Return the SFTP status and its text for an errno."""
    return _STATUS_OF.get(number, FAILURE), f"errno={number} {os.strerror(number)}".encode()


def errno_of(status: int, text: bytes) -> int:
    """Return the errno that a STATUS means: the exact one if the text tells it, else the nearest."""
    if text.startswith(b"errno="):
        digits = text[6:].split(b" ", 1)[0]
        if digits.isdigit():
            return int(digits)
    return _ERRNO_OF.get(status, errno.EIO)
