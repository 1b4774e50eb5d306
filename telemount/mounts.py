"""mount(2) and umount2(2), of FUSE file systems above all, and what is mounted."""

from __future__ import annotations

import ctypes
import os
import re
import stat
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
TYPE = "fuse.telemount"
_libc = ctypes.CDLL(None, use_errno=True)


def mount_fuse(target: str, source: str, *, read_only: bool) -> int:
    """Mount a new FUSE file system on the directory ``target``, also over a dead one; return its open ``/dev/fuse``. OSError.

    Every user may use it, and nothing is checked here: whether something is allowed is for the remote side to say.
    """
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other"
    flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    try:
        mount(source, target, TYPE, flags, data)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Call mount(2). OSError."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def unmount(target: str, flags: int = 0) -> None:
    """Call umount2(2). OSError."""
    if _libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def detach(target: str) -> None:
    """Take every mount off ``target``, dead or alive; who uses one goes on using it until it is not needed any more. OSError."""
    while target in mounted():
        unmount(target, MNT_DETACH)


def mounted(table: str | None = None, kind: str | None = TYPE) -> set[str]:
    """Return the paths on which a file system of this kind is mounted, None for any (proc_pid_mountinfo(5))."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape") if table is None else table
    found = set()
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        if kind is None or rest.startswith(kind + " "):
            found.add(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4]))
    return found
