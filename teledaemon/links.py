"""Links, addresses and routes of the daemon's network namespace, by rtnetlink(7)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from telewire.errors import NotFound, Unavailable

R = TypeVar("R")


def namespace() -> int:
    """Return the inode by which this network namespace is told from others (namespaces(7))."""
    return os.stat("/proc/self/ns/net").st_ino


def exists(name: str) -> bool:
    """Return whether there is a link of that name."""
    return os.path.exists(f"/sys/class/net/{name}")


class Links:
    """One rtnetlink socket, used from one worker thread: the event loop never waits for it, and it may have a loop of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rtnetlink", initializer=self._open)
        self._netlink: Any = None

    def _open(self) -> None:
        from pyroute2 import IPRoute

        self._netlink = IPRoute()

    def close(self) -> None:
        """Close the socket."""
        if self._netlink is not None:
            self._thread.submit(self._netlink.close)
        self._thread.shutdown()

    async def _call(self, what: str, work: Callable[[], R]) -> R:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except NetlinkError as error:
            raise Unavailable(f"the kernel refuses {what}: {error.args[-1]}") from None

    def _index(self, name: str) -> int:
        found = self._netlink.link_lookup(ifname=name)
        if not found:
            raise NotFound(f"there is no link {name} in the daemon's network namespace")
        return int(found[0])

    async def up(self, name: str, mtu: int | None = None) -> None:
        """Bring a link up. NotFound if it is not there."""

        def work() -> None:
            more = {"mtu": mtu} if mtu else {}
            self._netlink.link("set", index=self._index(name), state="up", **more)

        await self._call(f"to bring {name} up", work)

    async def add_bridge(self, name: str, mtu: int | None = None) -> None:
        """Make a bridge and bring it up; one that is there is kept."""

        def work() -> None:
            if not exists(name):
                self._netlink.link("add", ifname=name, kind="bridge", **({"mtu": mtu} if mtu else {}))
            self._netlink.link("set", index=self._index(name), state="up")

        await self._call(f"the bridge {name}", work)

    async def enslave(self, name: str, bridge: str) -> None:
        """Put a link on a bridge and bring it up. NotFound if it is not there."""

        def work() -> None:
            self._netlink.link("set", index=self._index(name), master=self._index(bridge), state="up")

        await self._call(f"to put {name} on the bridge", work)

    async def remove(self, name: str) -> None:
        """Remove a link; no error if it is gone."""

        def work() -> None:
            for index in self._netlink.link_lookup(ifname=name):
                self._netlink.link("del", index=index)

        await self._call(f"to remove {name}", work)

    async def add_address(self, name: str, address: str, prefix: int) -> None:
        """Give a link an address; one that it has is kept."""

        def work() -> None:
            more = {"IFA_FLAGS": 0x02} if ":" in address else {}  # IFA_F_NODAD: nobody else is there to ask
            self._ignoring(
                errno.EEXIST,
                self._netlink.addr,
                "add",
                index=self._index(name),
                address=address,
                prefixlen=prefix,
                **more,
            )

        await self._call(f"the address {address} on {name}", work)

    async def add_route(self, name: str, network: str, gateway: str | None = None) -> None:
        """Route ``network`` to a link; a route that is there is replaced."""

        def work() -> None:
            more = {"gateway": gateway} if gateway else {}
            self._netlink.route("replace", dst=network, oif=self._index(name), **more)

        await self._call(f"the route to {network}", work)

    def _ignoring(self, number: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            work(*args, **kwargs)
        except NetlinkError as error:
            if error.code != number:
                raise

    async def default_routes(self) -> list[tuple[str, str]]:
        """Return gateway and device of the default routes."""

        def work() -> list[tuple[str, str]]:
            found = []
            for route in self._netlink.get_default_routes():
                gateway, device = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")
                if gateway and device:
                    link = self._netlink.get_links(device)[0]
                    found.append((str(gateway), str(link.get_attr("IFLA_IFNAME"))))
            return found

        return await self._call("to list the routes", work)

    async def addresses(self) -> list[tuple[str, int, str]]:
        """Return address, prefix length and device of all links."""

        def work() -> list[tuple[str, int, str]]:
            devices = {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()}
            return [
                (str(entry.get_attr("IFA_ADDRESS")), int(entry["prefixlen"]), str(devices.get(entry["index"], "?")))
                for entry in self._netlink.get_addr()
            ]

        return await self._call("to list the addresses", work)
