"""The plugin's propagated mount: what is mounted below it must come to be in the engine's mount namespace too, for containers.

dockerd makes that directory a mount point before it starts the plugin. Now and then it takes it off at the same moment, when it cleans
up after the process before (``HandleExitEvent`` in daemon/pkg/plugin/manager_linux.go of moby, after dockerd was killed). Then nothing
here looks different, and Mount would be answered well, but containers would get the directory below and write to the local disk.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from telemount import mounts

MS_PRIVATE = 1 << 18
_ROOM = "mode=755,size=1m"
"""For the directories on which volumes are mounted."""


def prepare(root: Path) -> bool:
    """Make ``root/volumes`` ready for volumes, at the start of the plugin; return whether the engine sees what is mounted there. OSError.

    Mounts are copied to all peers of the mount they are made on (mount_namespaces(7)), and nothing tells whether there are any.
    But a FUSE connection lives as long as its file system is mounted anywhere: one is mounted on trial, and taken off here alone, for
    which ``root`` becomes private. ``volumes`` is a mount of its own by then, whose peers go on hearing of each other. It is in memory
    so that an engine that has lost it finds no directory there, rather than a wrong one.

    Does nothing where ``root`` is an ordinary directory, outside an engine.
    """
    points = mounts.mounted(kind=None)
    if str(root) not in points:
        return True
    volumes, trial = root / "volumes", root / "trial"
    if str(volumes) not in points:
        volumes.mkdir(exist_ok=True)
        for old in volumes.iterdir():
            with contextlib.suppress(OSError):
                old.rmdir()
        mounts.mount("telemount", str(volumes), "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, _ROOM)
    mounts.detach(str(trial))
    trial.mkdir(exist_ok=True)
    descriptor = mounts.mount_fuse(str(trial), "trial", read_only=True)
    try:
        mounts.mount("", str(root), "", MS_PRIVATE)
        mounts.unmount(str(trial))
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        seen = not any(event & select.POLLERR for _, event in poll.poll(0))
        trial.rmdir()  # takes the engine's copy off as well
    finally:
        os.close(descriptor)
    return seen
