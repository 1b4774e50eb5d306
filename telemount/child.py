"""The process of one mounted volume: ``python -m telemount.child``, started by the driver.

It reads one JSON object from standard input, ``{"options": {…}, "target": path, "wait": bool}``, and writes one line to standard
output: ``ready``, or ``error`` and why. It ends when the file system is unmounted and nobody uses it any more, or with the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import sys
from functools import partial

from telemount import link, mounts
from telemount.client import Client
from telemount.options import Options
from telemount.remote import Remote
from telewire.errors import NotFound, TeleError
from telewire.logs import set_up

CONNECT = 5.0
"""Seconds for one try to connect."""
PR_SET_PDEATHSIG = 1


def check(client: Client, options: Options) -> None:
    """Raise NotFound unless ``dir`` is a directory at the server."""
    try:
        attrs = Remote(client, options.dir).lstat(b"/")
    except OSError as error:
        raise NotFound(
            f"the SFTP server at {options.address} has no {options.dir}: {error.strerror}; check dir"
        ) from error
    if attrs.mode is not None and not stat.S_ISDIR(attrs.mode):
        raise NotFound(f"{options.dir} at the SFTP server at {options.address} is no directory; check dir")


def serve(options: Options, target: str, *, wait: bool) -> None:
    """Mount and serve until the end. TeleError if that cannot begin."""
    from telemount.filesystem import FileSystem

    client = Client(partial(link.open_link, options.host, options.port, options.token, options.export, CONNECT))
    client.start(wait=wait)
    if wait:
        check(client, options)
    try:
        from telemount.fuse import Mounted

        descriptor = mounts.mount_fuse(target, f"telemount:{options.address}", read_only=options.ro)
    except OSError as error:
        raise TeleError(
            f"cannot mount at {target}: {error.strerror}; the plugin needs CAP_SYS_ADMIN and /dev/fuse"
        ) from error
    filesystem = FileSystem(client, options.dir, options.cache)
    Mounted(filesystem, options, descriptor, lambda: _say("ready"))
    client.stop()


def _say(line: str) -> None:
    os.write(1, line.replace("\n", " ").encode() + b"\n")


def main() -> None:
    """Run one volume."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = set_up("telemount")
    with contextlib.suppress(OSError):  # told when they are needed; here, since the driver may have started us ahead
        import telemount.filesystem
        import telemount.fuse  # noqa: F401
    line = sys.stdin.readline()
    if not line:  # the driver has gone
        sys.exit(1)
    asked = json.loads(line)
    try:
        serve(Options(**asked["options"]), asked["target"], wait=asked["wait"])
    except TeleError as error:
        _say(f"error {error}")
        sys.exit(1)
    except RuntimeError as error:
        log.error("libfuse ended with %s", error)
        _say(f"error libfuse cannot serve the file system: {error}; see the engine's log")
        sys.exit(1)


if __name__ == "__main__":
    main()
