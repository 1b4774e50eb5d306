"""The requests of SFTP version 3 (draft-ietf-secsh-filexfer-02), answered from the files below a root. No asyncio here."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator

from teleagent.files import Tree, by_descriptor, rename_new
from teleagent.wholefiles import read_directory
from telewire import sftp
from telewire.errors import TeleError
from telewire.sftp import Attrs, Reader

EXTENSIONS = (
    (sftp.EXT_STATVFS, b"2"),
    (sftp.EXT_POSIX_RENAME, b"1"),
    (sftp.EXT_FSYNC, b"1"),
    (sftp.EXT_HARDLINK, b"1"),
    (sftp.EXT_LSETSTAT, b"1"),
    (sftp.EXT_LIMITS, b"1"),
    (sftp.EXT_READFILES, b"1"),
)
MOST_HANDLES = 4096
LISTING_BYTES = 128 * 1024
LISTING_ENTRIES = 1000
FILE_MODE, DIRECTORY_MODE = 0o644, 0o755
"""What is made where the client tells no mode."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Handle:
    """An open file, or a directory whose ``entries`` are still to be told."""

    def __init__(self, descriptor: int, entries: Iterator[bytes] | None = None) -> None:
        self.descriptor = descriptor
        self.entries = entries
        self.turn = threading.Lock()

    def close(self) -> None:
        self.entries = None
        os.close(self.descriptor)


def _names(descriptor: int) -> Iterator[bytes]:
    yield from (b".", b"..")
    with os.scandir(descriptor) as entries:  # not listdir: a directory may have more names than the pod has memory
        for entry in entries:
            yield os.fsencode(entry.name)


def _long_name(name: bytes, found: os.stat_result) -> bytes:
    """Return the line that ``ls -l`` would print, which some clients show."""
    when = time.strftime("%b %d %H:%M", time.localtime(found.st_mtime))
    head = f"{stat.filemode(found.st_mode)} {found.st_nlink} {found.st_uid} {found.st_gid} {found.st_size} {when} "
    return head.encode() + name


class Calls:
    """One client's open files, and what may be done with them.

    Threads may answer at the same time as long as those requests only read; ``teleagent.sftp`` sees to that.
    """

    def __init__(self, root: str, *, read_only: bool = False) -> None:
        self._tree = Tree(root)
        self._read_only = read_only
        self._handles: dict[bytes, _Handle] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._calls: dict[int, Callable[[Reader], bytes | None]] = {
            sftp.OPEN: self._open, sftp.CLOSE: self._close, sftp.READ: self._read, sftp.WRITE: self._write,
            sftp.LSTAT: self._lstat, sftp.STAT: self._stat, sftp.FSTAT: self._fstat,
            sftp.SETSTAT: self._setstat, sftp.FSETSTAT: self._fsetstat,
            sftp.OPENDIR: self._opendir, sftp.READDIR: self._readdir,
            sftp.REMOVE: self._remove, sftp.MKDIR: self._mkdir, sftp.RMDIR: self._rmdir,
            sftp.REALPATH: self._realpath, sftp.RENAME: self._rename,
            sftp.READLINK: self._readlink, sftp.SYMLINK: self._symlink, sftp.EXTENDED: self._extended,
        }  # fmt: skip
        self._extensions: dict[str, Callable[[Reader], bytes | None]] = {
            sftp.EXT_STATVFS: self._statvfs,
            sftp.EXT_POSIX_RENAME: self._posix_rename,
            sftp.EXT_FSYNC: self._fsync,
            sftp.EXT_HARDLINK: self._hardlink,
            sftp.EXT_LSETSTAT: self._lsetstat,
            sftp.EXT_LIMITS: self._limits,
            sftp.EXT_READFILES: self._readfiles,
        }

    def close(self) -> None:
        """Close all that the client left open."""
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()
        self._tree.close()

    def answer(self, packet: bytes) -> bytes:
        """Return the answer to one packet. SftpError if it has no type or number."""
        reader = Reader(packet)
        kind = reader.u8()
        if kind == sftp.INIT:
            extensions = (sftp.pack_string(name.encode()) + sftp.pack_string(data) for name, data in EXTENSIONS)
            return sftp.packet(sftp.VERSION, struct.pack(">I", 3), *extensions)
        number = reader.u32()
        call = self._calls.get(kind)
        if call is None:
            return _status(number, sftp.UNSUPPORTED, f"requests of type {kind} are not supported".encode())
        try:
            reply = call(reader)
        except EOFError:
            return _status(number, sftp.EOF, b"end of file")
        except NotImplementedError as error:
            return _status(number, sftp.UNSUPPORTED, str(error).encode())
        except OSError as error:
            return _status(number, *sftp.status_of(error.errno or errno.EIO))
        except (TeleError, ValueError, OverflowError, struct.error) as error:
            return _status(number, sftp.BAD_MESSAGE, str(error).encode())
        if reply is None:
            return _status(number, sftp.OK, b"")
        return sftp.request(reply[0], number, reply[1:])

    # Each call takes the request's fields and returns the answer's type byte and body, or None for "done".

    def _handle(self, reader: Reader) -> _Handle:
        try:
            return self._handles[reader.string()]
        except KeyError:
            raise _error(errno.EBADF) from None

    def _keep(self, handle: _Handle) -> bytes:
        with self._lock:
            if len(self._handles) >= MOST_HANDLES:
                handle.close()
                raise _error(errno.EMFILE)
            self._next += 1
            name = struct.pack(">Q", self._next)
            self._handles[name] = handle
        return bytes([sftp.HANDLE]) + sftp.pack_string(name)

    def _writing(self) -> None:
        if self._read_only:
            raise _error(errno.EROFS)

    def _open(self, reader: Reader) -> bytes:
        path, wanted, attrs = reader.string(), reader.u32(), reader.attrs()
        flags = os.O_RDONLY
        if wanted & ~sftp.OPEN_READ:
            self._writing()
            for bit, flag in (
                (sftp.OPEN_WRITE, os.O_RDWR if wanted & sftp.OPEN_READ else os.O_WRONLY),
                (sftp.OPEN_APPEND, os.O_APPEND),
                (sftp.OPEN_CREAT, os.O_CREAT),
                (sftp.OPEN_TRUNC, os.O_TRUNC),
                (sftp.OPEN_EXCL, os.O_EXCL),
            ):
                flags |= flag if wanted & bit else 0
        mode = FILE_MODE if attrs.mode is None else stat.S_IMODE(attrs.mode)
        return self._keep(_Handle(self._tree.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)))

    def _close(self, reader: Reader) -> None:
        handle = self._handles.pop(reader.string(), None)
        if handle is None:
            raise _error(errno.EBADF)
        handle.close()

    def _read(self, reader: Reader) -> bytes:
        handle, offset, size = self._handle(reader), reader.u64(), reader.u32()
        data = os.pread(handle.descriptor, min(size, sftp.MAX_DATA), offset)
        if not data and size:
            raise EOFError
        return bytes([sftp.DATA]) + sftp.pack_string(data)

    def _write(self, reader: Reader) -> None:
        self._writing()
        handle, offset, data = self._handle(reader), reader.u64(), reader.view()
        while data:  # a file opened for appending takes it at its end, whatever the offset (pwrite(2), Linux)
            written = os.pwrite(handle.descriptor, data, offset)
            data, offset = data[written:], offset + written

    def _lstat(self, reader: Reader) -> bytes:
        return _attributes(self._tree.stat(reader.string(), follow=False))

    def _stat(self, reader: Reader) -> bytes:
        return _attributes(self._tree.stat(reader.string()))

    def _fstat(self, reader: Reader) -> bytes:
        return _attributes(os.fstat(self._handle(reader).descriptor))

    def _set(self, target: str | int, attrs: Attrs) -> None:
        self._writing()
        if attrs.size is not None:
            os.truncate(target, attrs.size)
        if attrs.uid is not None and attrs.gid is not None:
            os.chown(target, attrs.uid, attrs.gid)
        if attrs.mode is not None:  # after the owner, whose change takes set-user-ID away
            os.chmod(target, stat.S_IMODE(attrs.mode))
        if attrs.atime is not None and attrs.mtime is not None:
            os.utime(target, (attrs.atime, attrs.mtime))

    def _setstat(self, reader: Reader) -> None:
        with self._tree.at(reader.string()) as descriptor:
            self._set(by_descriptor(descriptor), reader.attrs())

    def _lsetstat(self, reader: Reader) -> None:
        with self._tree.at(reader.string(), follow=False) as descriptor:
            self._set(by_descriptor(descriptor), reader.attrs())

    def _fsetstat(self, reader: Reader) -> None:
        handle = self._handle(reader)
        self._set(handle.descriptor, reader.attrs())

    def _opendir(self, reader: Reader) -> bytes:
        descriptor = self._tree.open(reader.string(), os.O_RDONLY | os.O_DIRECTORY)
        return self._keep(_Handle(descriptor, _names(descriptor)))

    def _readdir(self, reader: Reader) -> bytes:
        handle = self._handle(reader)
        parts: list[bytes] = []
        size = 0
        with handle.turn:
            if handle.entries is None:
                raise _error(errno.ENOTDIR)
            for name in handle.entries:
                try:
                    found = os.stat(name, dir_fd=handle.descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError:  # the name is there, its attributes may not be seen
                    parts.append(sftp.pack_string(name) * 2 + Attrs().pack())
                else:
                    long_name = _long_name(name, found)
                    parts.append(sftp.pack_string(name) + sftp.pack_string(long_name) + Attrs.of(found).pack())
                size += len(parts[-1])
                if size > LISTING_BYTES or len(parts) >= LISTING_ENTRIES:
                    break
        if not parts:
            raise EOFError
        return bytes([sftp.NAME]) + struct.pack(">I", len(parts)) + b"".join(parts)

    def _remove(self, reader: Reader) -> None:
        self._writing()
        with self._tree.parent(reader.string()) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def _mkdir(self, reader: Reader) -> None:
        self._writing()
        path, attrs = reader.string(), reader.attrs()
        mode = DIRECTORY_MODE if attrs.mode is None else stat.S_IMODE(attrs.mode)
        with self._tree.parent(path) as (directory, name):
            os.mkdir(name, mode, dir_fd=directory)

    def _rmdir(self, reader: Reader) -> None:
        self._writing()
        with self._tree.parent(reader.string()) as (directory, name):
            os.rmdir(name, dir_fd=directory)

    def _realpath(self, reader: Reader) -> bytes:
        return _one_name(self._tree.real(reader.string()))

    def _rename(self, reader: Reader) -> None:
        self._writing()
        with self._tree.parent(reader.string()) as (source, old), self._tree.parent(reader.string()) as (target, new):
            rename_new(old, new, source, target)

    def _posix_rename(self, reader: Reader) -> None:
        self._writing()
        with self._tree.parent(reader.string()) as (source, old), self._tree.parent(reader.string()) as (target, new):
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)

    def _readlink(self, reader: Reader) -> bytes:
        with self._tree.parent(reader.string()) as (directory, name):
            return _one_name(os.readlink(name, dir_fd=directory))

    def _symlink(self, reader: Reader) -> None:
        self._writing()
        target, path = reader.string(), reader.string()  # OpenSSH's order, which all clients follow, not the draft's
        with self._tree.parent(path) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def _extended(self, reader: Reader) -> bytes | None:
        name = reader.string().decode(errors="replace")
        extension = self._extensions.get(name)
        if extension is None:
            raise NotImplementedError(f"extension {name} is not supported")
        return extension(reader)

    def _hardlink(self, reader: Reader) -> None:
        self._writing()
        with self._tree.parent(reader.string()) as (source, old), self._tree.parent(reader.string()) as (target, new):
            os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    def _fsync(self, reader: Reader) -> None:
        os.fsync(self._handle(reader).descriptor)

    def _statvfs(self, reader: Reader) -> bytes:
        with self._tree.at(reader.string()) as descriptor:
            found = os.fstatvfs(descriptor)
        flags = (1 if self._read_only or found.f_flag & os.ST_RDONLY else 0) | (found.f_flag & os.ST_NOSUID)
        return bytes([sftp.EXTENDED_REPLY]) + struct.pack(
            ">11Q", found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files,
            found.f_ffree, found.f_favail, found.f_fsid & 0xFFFFFFFFFFFFFFFF, flags, found.f_namemax,
        )  # fmt: skip

    def _limits(self, _reader: Reader) -> bytes:
        limits = struct.pack(">4Q", sftp.MAX_REQUEST, sftp.MAX_DATA, sftp.MAX_DATA, MOST_HANDLES)
        return bytes([sftp.EXTENDED_REPLY]) + limits

    def _readfiles(self, reader: Reader) -> bytes:
        path, each, budget = reader.string(), reader.u32(), reader.u32()
        directory = self._tree.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = read_directory(directory, each, min(budget, sftp.READFILES_BYTES))
        finally:
            os.close(directory)
        return bytes([sftp.EXTENDED_REPLY]) + struct.pack(">I", len(entries)) + b"".join(entries)


def _status(number: int, status: int, text: bytes) -> bytes:
    return sftp.request(sftp.STATUS, number, struct.pack(">I", status), sftp.pack_string(text), sftp.pack_string(b""))


def _attributes(found: os.stat_result) -> bytes:
    return bytes([sftp.ATTRS]) + Attrs.of(found).pack()


def _one_name(name: bytes) -> bytes:
    return bytes([sftp.NAME]) + struct.pack(">I", 1) + sftp.pack_string(name) * 2 + Attrs().pack()
