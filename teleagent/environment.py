"""The environment that the kubelet gave this container, byte for byte (proc_pid_environ(5))."""

from __future__ import annotations

from collections.abc import Collection

RUNTIMES_OWN = frozenset({b"PATH", b"HOME", b"TERM"})
"""Set by the container runtime from its defaults, the image's user database and the terminal. The agent's image sets nothing.

HOSTNAME is the runtime's as well, but tells the pod's name, as it does in the container that the agent stands for.
"""


def parse(raw: bytes, keep: Collection[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Return name and value of each variable in ``raw``, in order; less the runtime's own that are not in ``keep``."""
    pairs = []
    for entry in raw.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and (name not in RUNTIMES_OWN or name in keep):
            pairs.append((name, value))
    return pairs


def own(keep: Collection[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Return this process' environment as it was started with. ``keep``: names that the pod's spec declares, never left out."""
    with open("/proc/self/environ", "rb") as file:
        return parse(file.read(), keep)
