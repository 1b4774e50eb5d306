"""Many whole small files of one directory at once: what the extension ``readfiles@telepresence.io`` answers (``telewire.sftp``)."""

from __future__ import annotations

import errno
import os
import stat

from telewire.sftp import MAX_PACKET, READFILES_BYTES, Attrs, FileEntry

LISTING_BYTES = MAX_PACKET - READFILES_BYTES - (1 << 20)
"""Most bytes of names and attributes: with the contents they fit into one packet."""


def read_directory(directory: int, each: int, budget: int) -> list[bytes]:
    """Return the packed entries of the open ``directory``, with the contents of files up to ``each`` bytes while ``budget`` lasts.

    OSError, E2BIG among them: too many entries for one answer.
    """
    entries: list[bytes] = []
    listing = 0
    with os.scandir(directory) as names:
        for found in names:
            name = os.fsencode(found.name)
            try:
                entry = _entry(name, directory, min(each, budget))
            except FileNotFoundError:
                continue
            packed = entry.pack()
            size = len(entry.content or b"")
            budget -= size
            listing += len(packed) - size
            if listing > LISTING_BYTES:
                raise OSError(errno.E2BIG, "too many entries for one answer")
            entries.append(packed)
    return entries


def _entry(name: bytes, directory: int, limit: int) -> FileEntry:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError as error:  # the name is there, its attributes may not be seen
        return FileEntry(name, error.errno or errno.EIO, Attrs())
    attrs = Attrs.of(found)
    if not stat.S_ISREG(found.st_mode):
        return FileEntry(name, errno.EINVAL, attrs)
    if found.st_size > limit:
        return FileEntry(name, errno.EFBIG, attrs)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        return FileEntry(name, error.errno or errno.EIO, attrs)
    try:
        data = os.pread(descriptor, found.st_size + 1, 0)
        now = os.fstat(descriptor)
    except OSError as error:
        return FileEntry(name, error.errno or errno.EIO, attrs)
    finally:
        os.close(descriptor)
    same = (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size) == (
        found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size,
    )  # fmt: skip
    if not same or len(data) != found.st_size:
        return FileEntry(name, errno.EAGAIN, attrs)
    return FileEntry(name, 0, attrs, data)
