"""Files below a root that no link can leave, and what a path is."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any

SYS_OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10
RENAME_NOREPLACE = 1
MOST_LINKS = 40
"""Links followed in one path, as the kernel has it (path_resolution(7))."""
_libc = ctypes.CDLL(None, use_errno=True)


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))


def openat2(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as if the directory ``root`` were ``/``, links and ``..`` included (openat2(2)). OSError as open(2) has it."""
    if b"\0" in path:
        raise _error(errno.EINVAL, path)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, RESOLVE_IN_ROOT)
    number = errno.EAGAIN
    for _ in range(8):  # EAGAIN: something was renamed meanwhile
        found = int(
            _libc.syscall(ctypes.c_long(SYS_OPENAT2), root, path.lstrip(b"/") or b".", how, ctypes.c_size_t(len(how)))
        )
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise _error(number, path)


def walk(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open as :func:`openat2` does, one component after the other, where the kernel or a seccomp filter does not have it.

    No component is opened through a link: links are read and followed here, so none leads out of ``root``.
    """
    if b"\0" in path:
        raise _error(errno.EINVAL, path)
    todo = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
    stack = [os.dup(root)]
    links = 0
    keep_last = flags & os.O_NOFOLLOW or flags & os.O_EXCL
    try:
        while todo:
            name = todo.pop()
            if name == b"..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            target = None
            if todo or not keep_last:
                with contextlib.suppress(OSError):  # no link, or nothing at all: opening it tells
                    target = os.readlink(name, dir_fd=stack[-1])
            if target is not None:
                links += 1
                if links > MOST_LINKS:
                    raise _error(errno.ELOOP, path)
                if target.startswith(b"/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            elif todo:
                stack.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=stack[-1]))
            else:
                return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=stack[-1])
        return os.open(b".", flags & ~os.O_NOFOLLOW, mode, dir_fd=stack[-1])
    finally:
        for descriptor in stack:
            os.close(descriptor)


def rename_new(old: bytes, new: bytes, source: int, target: int) -> None:
    """Rename ``old`` in the directory ``source`` to ``new`` in ``target``, which must not be there (renameat2(2)). OSError."""
    call = getattr(_libc, "renameat2", None)
    if call is not None:
        if call(source, old, target, new, RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):  # a file system or filter that does not have it
            raise _error(number, new)
    try:
        os.stat(new, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
    else:
        raise _error(errno.EEXIST, new)


class Tree:
    """The files below ``root``. Paths are bytes, absolute, seen from the root. Threads may share it."""

    def __init__(self, root: str) -> None:
        self._root: int | None = None
        self._prefix = b""
        self._resolve: Callable[[int, bytes, int, int], int] = openat2
        if os.path.realpath(root) != "/":
            self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._prefix = os.readlink(os.fsencode(by_descriptor(self._root)))
            try:
                os.close(openat2(self._root, b"/", os.O_PATH | os.O_DIRECTORY))
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    self.close()
                    raise
                self._resolve = walk

    def close(self) -> None:
        """Let the root go."""
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> int:
        """Open a file; return its descriptor. OSError, ValueError as open(2) has them."""
        if not self._prefix:
            return os.open(b"/" + path, flags | os.O_CLOEXEC, mode)
        if self._root is None:
            raise _error(errno.EBADF, path)
        return self._resolve(self._root, path, flags, mode)

    def real(self, path: bytes) -> bytes:
        """Return ``path`` without links and dots; by its letters only, where it does not exist."""
        try:
            with self.at(path) as descriptor:
                found = os.readlink(os.fsencode(by_descriptor(descriptor)))
        except FileNotFoundError:
            found = b""
        if found.startswith(self._prefix + b"/"):
            return found[len(self._prefix) :]
        if found and found == self._prefix:
            return b"/"
        return b"/" + os.path.normpath(b"/" + path).lstrip(b"/")

    @contextlib.contextmanager
    def at(self, path: bytes, *, follow: bool = True) -> Iterator[int]:
        """Give a descriptor that only names ``path`` (``O_PATH``)."""
        descriptor = self.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the directory that ``path`` is in and its last name, for the calls that end in ``at``."""
        head, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise _error(errno.EINVAL, path)
        descriptor = self.open(head or b"/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def stat(self, path: bytes, *, follow: bool = True) -> os.stat_result:
        """Return what ``path`` is."""
        with self.at(path, follow=follow) as descriptor:
            return os.fstat(descriptor)


def by_descriptor(descriptor: int) -> str:
    """Return a path to an open (also ``O_PATH``) file, for calls that take no descriptor of that kind."""
    return f"/proc/self/fd/{descriptor}"


def describe(path: str) -> dict[str, Any]:
    """Return what the contract's ``mounts`` tells of one path; ``writable``: its mount is, whatever the file's mode allows."""
    try:
        found, system = os.stat(path), os.statvfs(path)
    except (OSError, ValueError):  # the answer, not a failure: it is not there for this user
        return {"path": path, "exists": False, "directory": False, "writable": False, "device": 0}
    return {
        "path": path,
        "exists": True,
        "directory": stat.S_ISDIR(found.st_mode),
        "writable": not system.f_flag & os.ST_RDONLY,
        "device": found.st_dev,
    }
