"""One command at a time changes a connection; the lock vanishes with its holder, however that dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from telewire.errors import Conflict

PATIENCE = 120.0
"""Seconds to wait for the holder."""


@contextlib.contextmanager
def held(name: str, waiting: Callable[[], object], patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of the connection ``name``.

    :param waiting: called once if another command holds it
    :raises Conflict: the holder did not end in time
    """
    deadline = time.monotonic() + patience
    told = False
    while True:
        handle = _try(f"telepresence-{os.getuid()}-{name}")
        if handle is not None:
            break
        if not told:
            waiting()
            told = True
        if time.monotonic() > deadline:
            raise Conflict(f"another telepresence command is busy with connection {name}; wait for it or end it")
        time.sleep(0.1)
    try:
        yield
    finally:
        handle()


def _try(key: str) -> Callable[[], object] | None:
    """Take the lock if it is free; return what gives it back.

    Linux: an abstract unix socket, which leaves no file. Elsewhere: a locked file in the temporary folder.
    """
    if sys.platform == "linux":
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bound.bind(b"\0" + key.encode()[:100])
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        return bound.close
    descriptor = os.open(os.path.join(tempfile.gettempdir(), key + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return lambda: os.close(descriptor)
