"""veth pairs between the engine's network namespace and a daemon's, by rtnetlink(7)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from telewire.errors import Conflict, TeleError, Unavailable

R = TypeVar("R")


def process_in(namespace: int, proc: str = "/proc") -> int:
    """Return a process whose network namespace has this inode, to name the namespace to the kernel. Unavailable if there is none."""
    for entry in os.listdir(proc):
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # gone meanwhile, or not ours to see
                if os.stat(f"{proc}/{entry}/ns/net").st_ino == namespace:
                    return int(entry)
    raise Unavailable(
        "the daemon's network namespace is not on this machine: the daemon's container has to run on the same Docker Engine"
    )


class Links:
    """One rtnetlink socket in one worker thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rtnetlink")
        self._netlink: Any = None

    def close(self) -> None:
        """Close the socket."""
        if self._netlink is not None:
            self._thread.submit(self._netlink.close)
        self._thread.shutdown()

    async def _call(self, what: str, work: Callable[[Any], R]) -> R:
        def run() -> R:
            from pyroute2 import IPRoute
            from pyroute2.netlink.exceptions import NetlinkError

            if self._netlink is None:
                self._netlink = IPRoute()
            try:
                return work(self._netlink)
            except NetlinkError as error:
                kind = Conflict if error.code == errno.EEXIST else TeleError
                raise kind(f"the kernel refuses {what}: {error.args[-1]}") from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def create(self, name: str, peer: str, namespace: int, mac: str, mtu: int | None) -> None:
        """Make the pair ``name`` here and ``peer`` in the network namespace with that inode; an old one of the name goes first.

        Conflict if ``peer`` is there already: the old pair's other end is in a container.
        """

        def work(netlink: Any) -> None:
            _remove(netlink, name)
            ends: dict[str, Any] = {"ifname": name, "kind": "veth"}
            other: dict[str, Any] = {"ifname": peer, "net_ns_pid": process_in(namespace)}
            if mac:
                ends["address"] = mac
            if mtu:
                ends["mtu"] = other["mtu"] = mtu
            netlink.link("add", **ends, peer=other)

        await self._call(f"the veth pair {name}", work)

    async def remove(self, name: str) -> None:
        """Remove a link and with it its peer; no error if it is gone."""
        await self._call(f"to remove {name}", lambda netlink: _remove(netlink, name))


def _remove(netlink: Any, name: str) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    for index in netlink.link_lookup(ifname=name):
        try:
            netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
