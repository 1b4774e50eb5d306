"""The file system of one volume: caches, open files and remote calls put together. It knows nothing of FUSE."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable

from telemount.cache import Cache, Known, Listing, parent
from telemount.client import Client
from telemount.eager import AFTER, SMALL, Eagerness
from telemount.openfile import OpenFile
from telemount.readahead import Budget
from telemount.remote import Remote, Statistics
from telemount.request import Request, os_error
from telewire import sftp
from telewire.sftp import Attrs

log = logging.getLogger(__name__)

RENAME_NOREPLACE = 1
LONGEST_NAME = 255
_KEPT = sftp.OPEN_READ | sftp.OPEN_WRITE
_ACCESS = {os.O_RDONLY: sftp.OPEN_READ, os.O_WRONLY: sftp.OPEN_WRITE, os.O_RDWR: _KEPT}


def open_flags(flags: int) -> int:
    """Return SFTP's flags for those of open(2)."""
    wanted = _ACCESS.get(flags & os.O_ACCMODE, sftp.OPEN_READ)
    for bit, flag in (
        (os.O_APPEND, sftp.OPEN_APPEND),
        (os.O_CREAT, sftp.OPEN_CREAT),
        (os.O_TRUNC, sftp.OPEN_TRUNC),
        (os.O_EXCL, sftp.OPEN_EXCL),
    ):
        wanted |= flag if flags & bit else 0
    # SFTP has O_EXCL with O_CREAT only.
    return wanted if wanted & sftp.OPEN_CREAT else wanted & ~sftp.OPEN_EXCL


class FileSystem:
    """Remote files as system calls see them. Paths are bytes seen from the volume's root. All raise OSError. Threads may share it."""

    def __init__(self, client: Client, root: str, cache: float) -> None:
        """``cache``: seconds after which a change made by the remote side is seen at the latest."""
        self.remote = Remote(client, root)
        # The kernel may keep what it was told for the other half.
        self._cache = Cache(cache / 2)
        self._eager = Eagerness(AFTER if cache else None)
        self._client = client
        self._budget = Budget()
        self._lock = threading.Lock()
        self._open: dict[bytes, set[OpenFile]] = {}
        self._fetching: dict[bytes, threading.Event] = {}

    # Looking

    def attrs(self, path: bytes) -> Attrs:
        """Return a file's attributes."""
        if len(path) - path.rfind(b"/") > LONGEST_NAME + 1:  # SFTP itself has no error for it
            raise os_error(errno.ENAMETOOLONG)
        known = self._cache.attrs(path)
        directory = parent(path)
        if known is None and path != b"/" and self._cache.listing(directory) is None and self._eager.due(directory):
            self._fetch(directory)
            known = self._cache.attrs(path)
        if known is None:
            version = self._cache.version
            try:
                known = Known(self.remote.lstat(path))
                self._eager.asked(path)
            except FileNotFoundError:
                known = Known(None)
            self._cache.store(path, known.attrs, version)
        if known.attrs is None:
            raise os_error(errno.ENOENT)
        return known.attrs

    def file_attrs(self, file: OpenFile) -> Attrs:
        """Return an open file's attributes."""
        fresh, file.fresh = file.fresh, None
        if fresh is not None:
            return fresh
        return self.remote.fstat(file.handle) if file.handle is not None else self.attrs(file.path)

    def list(self, path: bytes) -> Listing:
        """Return what is in a directory, with attributes."""
        found = self._cache.listing(path)
        if found is None:
            version = self._cache.version
            contents = self._eager.contents(path)
            found = self._list(path, version, contents=contents)
        return found

    def holds(self, path: bytes, listing: Listing) -> bool:
        """Return whether :meth:`list` would return ``listing`` without asking anew: it is not old, and nothing was changed here."""
        return self._cache.listing(path) is listing

    def _list(self, path: bytes, version: int, *, contents: bool) -> Listing:
        names, contained = self.remote.list(path, contents=contents)
        self._eager.fetched(path, len(names))
        self._cache.store_listing(path, names, contained, version)
        return names

    def _fetch(self, directory: bytes) -> None:
        """Fetch all of a directory, once for all threads that want it. What goes wrong shows when the single file is asked for."""
        with self._lock:
            running = self._fetching.get(directory)
            if running is None:
                self._fetching[directory] = done = threading.Event()
        if running is not None:
            running.wait()
            return
        try:
            self._list(directory, self._cache.version, contents=self._eager.contents(directory))
        except OSError as error:
            log.debug("listing %r ahead failed: %s", directory, error)
        finally:
            with self._lock:
                del self._fetching[directory]
            done.set()

    def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target, unchanged."""
        return self.remote.readlink(path)

    def statistics(self) -> Statistics | None:
        """Return the sizes of the remote file system; None if the server cannot tell."""
        try:
            return self.remote.statvfs(b"/")
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return None
            raise

    # Open files

    def open(self, path: bytes, flags: int) -> OpenFile:
        """Open a file that is there."""
        reading = flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
        if reading:
            file = self._open_content(path, flags)
            if file is not None:
                return file
        known = self._cache.attrs(path)
        ask = known is None and not flags & os.O_TRUNC
        file, asked = self._open_remote(path, flags & ~os.O_CREAT & ~os.O_EXCL, None, ask=ask)
        if flags & os.O_TRUNC:
            self._changed(path, listed=False, but=file)
            return file
        attrs = known.attrs if known is not None else self._answer(asked)
        file.size = (attrs.size if attrs is not None else None) or 0
        file.plain = reading and not file.size
        return file

    def _answer(self, asked: Request | None) -> Attrs | None:
        if asked is None:
            return None
        try:
            return asked.wait().attrs()
        except OSError:  # it is open, and removed already
            return None

    def _open_content(self, path: bytes, flags: int) -> OpenFile | None:
        content = self._cache.content(path)
        directory = parent(path)
        if content is None and self._cache.ttl:
            known = self._cache.attrs(path)
            if not self.remote.reads_many(directory) or self._cache.brought_contents(directory):
                return None
            if known is None and not self._eager.contents(directory):
                return None
            if known is not None and (known.attrs is None or not 0 < (known.attrs.size or 0) <= SMALL):
                return None
            self._eager.asked(path, opened=True)
            if not self._eager.due(directory):
                return None
            self._fetch(directory)
            content = self._cache.content(path)
        if content is None:
            return None
        self._eager.used(path)
        file = self._new(path, flags)
        file.take_content(content)
        self._remember(file)
        return file

    def create(self, path: bytes, flags: int, mode: int) -> OpenFile:
        """Make (unless it is there and not O_EXCL) and open a file."""
        file, asked = self._open_remote(path, flags | os.O_CREAT, Attrs(mode=stat.S_IMODE(mode)), ask=True)
        self._changed(path, but=file)
        file.fresh = self._answer(asked)
        file.size = (file.fresh.size if file.fresh is not None else None) or 0
        return file

    def _new(self, path: bytes, flags: int) -> OpenFile:
        return OpenFile(self._client, path, flags, self._budget, self.remote.full)

    def _open_remote(
        self, path: bytes, flags: int, attrs: Attrs | None, *, ask: bool
    ) -> tuple[OpenFile, Request | None]:
        """Open; with ``ask`` also ask for the attributes afterwards, in the same round trip."""
        asked: list[Request] = []

        def then() -> None:
            if ask:
                asked.append(self.remote.lstat_soon(path))

        file = self._new(path, flags)
        file.take(self._client.open(self.remote.full(path), open_flags(flags), attrs, then))
        self._remember(file)
        return file, asked[-1] if asked else None

    def _remember(self, file: OpenFile) -> None:
        with self._lock:
            self._open.setdefault(file.path, set()).add(file)

    def write(self, file: OpenFile, offset: int, data: bytes) -> None:
        """Write, soon."""
        file.fresh = None
        file.write(offset, data)
        self._changed(file.path, listed=False, but=file)

    def close(self, file: OpenFile) -> None:
        """Close. Whatever was written has been flushed before."""
        with self._lock:
            files = self._open.get(file.path)
            if files is not None:
                files.discard(file)
                if not files:
                    del self._open[file.path]
        file.close()

    def _changed(self, path: bytes, *, listed: bool = True, but: OpenFile | None = None) -> None:
        self._cache.forget(path, listed=listed)
        with self._lock:
            files = [file for file in self._open.get(path, ()) if file is not but]
        for file in files:
            file.changed()

    # Changing

    def _set(self, path: bytes, file: OpenFile | None, attrs: Attrs) -> None:
        try:
            if file is not None and file.handle is not None and file.flags & os.O_ACCMODE != os.O_RDONLY:
                self.remote.fset(file.handle, attrs)
            else:
                link = attrs.size is None and stat.S_ISLNK(self.attrs(path).mode or 0)
                self.remote.set(path, attrs, link=link)
        finally:
            self._changed(path, listed=False)

    def truncate(self, path: bytes, file: OpenFile | None, size: int) -> None:
        """Make a file ``size`` bytes long."""
        self._set(path, file, Attrs(size=size))
        with self._lock:
            files = list(self._open.get(path, ()))
        for other in files:
            other.size = size

    def chmod(self, path: bytes, file: OpenFile | None, mode: int) -> None:
        """Change the permissions."""
        self._set(path, file, Attrs(mode=stat.S_IMODE(mode)))

    def chown(self, path: bytes, file: OpenFile | None, uid: int, gid: int) -> None:
        """Change the owner; -1 leaves as it is."""
        if uid < 0 or gid < 0:
            now = self.attrs(path)
            uid = (now.uid or 0) if uid < 0 else uid
            gid = (now.gid or 0) if gid < 0 else gid
        self._set(path, file, Attrs(uid=uid, gid=gid))

    def utimens(self, path: bytes, file: OpenFile | None, atime: int | None, mtime: int | None) -> None:
        """Set the times, in seconds since the epoch (SFTP has no finer ones); None leaves as it is."""
        if atime is None or mtime is None:
            now = self.attrs(path)
            atime = now.atime or 0 if atime is None else atime
            mtime = now.mtime or 0 if mtime is None else mtime
        self._set(path, file, Attrs(atime=atime & 0xFFFFFFFF, mtime=mtime & 0xFFFFFFFF))

    def mkdir(self, path: bytes, mode: int) -> None:
        """Make a directory."""
        self._then_forget(path, lambda: self.remote.mkdir(path, mode))

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make ``path`` a symbolic link to ``target``, unchanged."""
        self._then_forget(path, lambda: self.remote.symlink(target, path))

    def link(self, old: bytes, new: bytes) -> None:
        """Make ``new`` another name of the file ``old``."""
        self._then_forget(new, lambda: self.remote.link(old, new))

    def unlink(self, path: bytes) -> None:
        """Remove what is no directory."""
        self._then_forget(path, lambda: self.remote.remove(path))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._then_forget(path, lambda: self.remote.rmdir(path), tree=True)

    def _then_forget(self, path: bytes, call: Callable[[], None], *, tree: bool = False) -> None:
        try:
            call()
        finally:
            (self._cache.forget_tree if tree else self._cache.forget)(path)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        """Give ``old`` the name ``new``, in place of what has it unless ``RENAME_NOREPLACE``."""
        if flags & ~RENAME_NOREPLACE:
            raise os_error(errno.EINVAL)
        try:
            self.remote.rename(old, new, replace=not flags & RENAME_NOREPLACE)
            self._client.renamed(self.remote.full(old), self.remote.full(new))
            with self._lock:
                moved = [path for path in self._open if path == old or path.startswith(old + b"/")]
                files = [file for path in moved for file in self._open.pop(path)]
                for file in files:
                    file.path = new + file.path[len(old) :]
                    self._open.setdefault(file.path, set()).add(file)
        finally:
            self._cache.forget_tree(old)
            self._cache.forget_tree(new)
