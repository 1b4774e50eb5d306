"""The file system as libfuse calls it, by mfusepy (https://github.com/mxmlnkn/mfusepy), with paths as bytes."""

from __future__ import annotations

import ctypes
import errno
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from telemount.cache import Listing
from telemount.filesystem import FileSystem
from telemount.openfile import OpenFile
from telemount.options import Options
from telewire.errors import TeleError
from telewire.sftp import Attrs

LIBRARIES = ("libfuse3.so.4", "libfuse3.so.3")


def _library() -> str:
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    raise OSError(errno.ENOENT, f"libfuse 3 is not installed (looked for {', '.join(LIBRARIES)})")


# mfusepy looks for libfuse 2 first, and there writes are 4 KiB.
os.environ["FUSE_LIBRARY_PATH"] = _library()
import mfusepy  # noqa: E402

log = logging.getLogger(__name__)

MOST_WRITE = 1 << 20
THREADS = 32
"""Calls that may wait for the network at the same time."""
BLOCK = 128 * 1024
"""Bytes that programs are told to read at a time."""
FILL_PLUS = 2
"""FUSE_FILL_DIR_PLUS: the attributes are complete, the kernel need not ask again."""
READDIRPLUS_AUTO = 1 << 14
"""FUSE_CAP_READDIRPLUS_AUTO: the kernel takes attributes for the first entries only, until it sees that they are used."""
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
CALLS = (
    "getattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "chmod", "chown", "truncate", "open",
    "read", "write", "statfs", "flush", "release", "fsync", "opendir", "readdir", "releasedir", "create", "utimens",
)  # fmt: skip
_TOLD = {errno.ECONNRESET: errno.EIO, errno.ENOTCONN: errno.EIO, errno.EBADMSG: errno.EIO}


@dataclass
class _Directory:
    """An open directory, and what was in it when it was opened or rewound."""

    path: bytes
    listing: Listing
    entries: Sequence[tuple[bytes, Attrs | None]]
    begun: bool = False


class Mounted(mfusepy.FUSE):  # type: ignore[misc]
    """Serves ``filesystem`` on an open ``/dev/fuse`` until it is unmounted or a signal ends it. RuntimeError if libfuse cannot."""

    def __init__(self, filesystem: FileSystem, options: Options, descriptor: int, ready: Callable[[], None]) -> None:
        """``descriptor``: ``/dev/fuse``, mounted. ``ready`` is called when the kernel is."""
        self._fs = filesystem
        self._options = options
        self._ready = ready
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, _Directory] = {}
        self._numbers = itertools.count(1)
        calls = SimpleNamespace(use_ns=True, **dict.fromkeys(CALLS, True))
        super().__init__(calls, f"/dev/fd/{descriptor}", foreground=True, fsname="telemount", max_threads=THREADS)

    def _wrapper(self, func: Callable[..., int | None], *args: Any, **_: Any) -> int:
        try:
            return func(*args) or 0
        except OSError as error:
            number = error.errno or errno.EIO
            return -_TOLD.get(number, number)
        except TeleError as error:
            log.error("%s: %s", func.__name__, error)
        except Exception:
            log.exception("%s failed", func.__name__)
        return -errno.EIO

    def init_fuse_3(self, conn: Any, config: Any) -> None:
        """Tell libfuse and the kernel what suits a network."""
        connection, settings = conn.contents, config.contents
        connection.max_write = MOST_WRITE
        connection.max_readahead = MOST_WRITE
        connection.max_background = 2 * THREADS
        connection.congestion_threshold = THREADS
        # find(1) reads a directory to its end before it looks at the first file.
        connection.want &= ~READDIRPLUS_AUTO
        half = self._options.cache / 2
        settings.attr_timeout = settings.entry_timeout = settings.negative_timeout = half
        settings.nullpath_ok = 1
        self._ready()

    # What is shown

    def _show(self, st: Any, attrs: Attrs) -> None:
        options = self._options
        mode = attrs.mode if attrs.mode is not None else stat.S_IFREG | 0o644
        if options.umask is not None:
            mode = stat.S_IFMT(mode) | 0o777 & ~options.umask
        st.st_mode = mode
        st.st_nlink = 1
        st.st_uid = (attrs.uid or 0) if options.uid is None else options.uid
        st.st_gid = (attrs.gid or 0) if options.gid is None else options.gid
        size = attrs.size or 0
        st.st_size = size
        st.st_blocks = (size + 511) // 512
        st.st_blksize = BLOCK
        st.st_atimespec.tv_sec = attrs.atime or 0
        st.st_mtimespec.tv_sec = st.st_ctimespec.tv_sec = attrs.mtime or 0

    def _file(self, fip: Any) -> OpenFile:
        return self._files[fip.contents.fh]

    def _at(self, path: bytes | None, fip: Any) -> tuple[bytes, OpenFile | None]:
        if fip:
            file = self._file(fip)
            return file.path, file
        assert path is not None
        return path, None

    def getattr_fuse_3(self, path: bytes | None, buf: Any, fip: Any) -> None:
        """stat(2), fstat(2)."""
        if fip:
            directory = self._directories.get(fip.contents.fh)
            if directory is None:
                self._show(buf.contents, self._fs.file_attrs(self._file(fip)))
                return
            path = directory.path
        assert path is not None
        self._show(buf.contents, self._fs.attrs(path))

    def readlink(self, path: bytes, buf: Any, bufsize: int) -> None:
        """readlink(2)."""
        data = self._fs.readlink(path)[: bufsize - 1] + b"\0"
        ctypes.memmove(buf, data, len(data))

    def opendir(self, path: bytes, fip: Any) -> None:
        """opendir(3); it lists at once, so that what is refused is refused here."""
        directory = self._list(path)
        number = next(self._numbers)
        self._directories[number] = directory
        fip.contents.fh = number

    def _list(self, path: bytes) -> _Directory:
        listing = self._fs.list(path)
        return _Directory(path, listing, [(b".", None), (b"..", None), *listing.items()])

    def readdir_fuse_3(self, path: bytes | None, buf: Any, filler: Any, offset: int, fip: Any, _flags: int) -> None:
        """readdir(3), with attributes. Entries have offsets: libfuse before 3.17 passes attributes on with those only."""
        number = fip.contents.fh
        directory = self._directories[number]
        if offset == 0 and directory.begun:  # rewinddir(3)
            directory = self._directories[number] = self._list(directory.path)
        directory.begun = True
        # The kernel would take old attributes for new ones, also those from before a change that was made through it.
        fresh = self._fs.holds(directory.path, directory.listing)
        st = mfusepy.c_stat()
        for index in range(offset, len(directory.entries)):
            name, attrs = directory.entries[index]
            if fresh and attrs is not None and attrs.mode is not None:
                self._show(st, attrs)
                full = filler(buf, name, st, index + 1, FILL_PLUS)
            else:
                full = filler(buf, name, None, index + 1, 0)
            if full:
                return

    def releasedir(self, _path: bytes | None, fip: Any) -> None:
        """closedir(3)."""
        self._directories.pop(fip.contents.fh, None)

    def statfs(self, _path: bytes, buf: Any) -> None:
        """statvfs(3)."""
        found = self._fs.statistics()
        out = buf.contents
        if found is None:
            out.f_bsize = out.f_frsize = 4096
            out.f_namemax = 255
            return
        out.f_bsize, out.f_frsize = found.block, found.fragment
        out.f_blocks, out.f_bfree, out.f_bavail = found.blocks, found.free, found.available
        out.f_files, out.f_ffree, out.f_favail = found.files, found.free_files, found.available_files
        out.f_namemax = found.longest_name

    # Open files

    def _keep(self, file: OpenFile, fip: Any) -> None:
        number = next(self._numbers)
        self._files[number] = file
        info = fip.contents
        info.fh = number
        # A size that tells nothing must not end reading; and what others append must not be written over in the kernel's pages.
        info.direct_io = file.plain or bool(file.flags & os.O_APPEND)

    def open(self, path: bytes, fip: Any) -> None:
        """open(2) of what is there."""
        self._keep(self._fs.open(path, fip.contents.flags), fip)

    def create(self, path: bytes, mode: int, fip: Any) -> None:
        """open(2) with O_CREAT."""
        self._keep(self._fs.create(path, fip.contents.flags, mode), fip)

    def read(self, _path: bytes | None, buf: Any, size: int, offset: int, fip: Any) -> int:
        """pread(2)."""
        target = (ctypes.c_char * size).from_address(ctypes.addressof(buf.contents))
        return self._file(fip).read(offset, memoryview(target).cast("B"))

    def write(self, _path: bytes | None, buf: Any, size: int, offset: int, fip: Any) -> int:
        """pwrite(2)."""
        self._fs.write(self._file(fip), offset, ctypes.string_at(buf, size))
        return size

    def flush(self, _path: bytes | None, fip: Any) -> None:
        """close(2)."""
        self._file(fip).flush()

    def fsync(self, _path: bytes | None, _datasync: int, fip: Any) -> None:
        """fsync(2)."""
        self._file(fip).sync()

    def release(self, _path: bytes | None, fip: Any) -> None:
        """The last close(2)."""
        file = self._files.pop(fip.contents.fh, None)
        if file is not None:
            self._fs.close(file)

    # Changing

    def mknod(self, path: bytes, mode: int, _dev: int) -> None:
        """mknod(2): SFTP has regular files only."""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self._fs.close(self._fs.create(path, os.O_WRONLY | os.O_EXCL, mode))

    def mkdir(self, path: bytes, mode: int) -> None:
        """mkdir(2)."""
        self._fs.mkdir(path, mode)

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        self._fs.unlink(path)

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        self._fs.rmdir(path)

    def symlink(self, source: bytes, target: bytes) -> None:
        """symlink(2): ``target`` becomes a link to ``source``."""
        self._fs.symlink(source, target)

    def link(self, source: bytes, target: bytes) -> None:
        """link(2)."""
        self._fs.link(source, target)

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> None:
        """renameat2(2)."""
        self._fs.rename(old, new, flags)
        for directory in list(self._directories.values()):
            if directory.path == old or directory.path.startswith(old + b"/"):
                directory.path = new + directory.path[len(old) :]

    def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> None:
        """chmod(2), fchmod(2)."""
        self._fs.chmod(*self._at(path, fip), mode)

    def chown_fuse_3(self, path: bytes | None, uid: int, gid: int, fip: Any) -> None:
        """chown(2), fchown(2). An owner that is fixed by option can be set to itself only."""
        given = [-1 if number == 0xFFFFFFFF else number for number in (uid, gid)]
        for index, fixed in enumerate((self._options.uid, self._options.gid)):
            if fixed is not None and given[index] not in (-1, fixed):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if fixed is not None:
                given[index] = -1
        if given != [-1, -1]:
            self._fs.chown(*self._at(path, fip), *given)

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> None:
        """truncate(2), ftruncate(2)."""
        self._fs.truncate(*self._at(path, fip), length)

    def utimens_fuse_3(self, path: bytes | None, buf: Any, fip: Any) -> None:
        """utimensat(2)."""
        times: list[int | None] = []
        for wanted in (buf.contents.actime, buf.contents.modtime) if buf else (None, None):
            if wanted is None or wanted.tv_nsec == UTIME_NOW:
                times.append(int(time.time()))
            else:
                times.append(None if wanted.tv_nsec == UTIME_OMIT else wanted.tv_sec)
        self._fs.utimens(*self._at(path, fip), *times)
