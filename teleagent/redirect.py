"""The redirection of a pod's ports to this agent: one nftables table with TPROXY rules, which the agent's death makes void.

Without a listener the ``tproxy`` statement does not match, and a packet goes on to the application; should the agent hang, its ports'
set elements time out (https://wiki.nftables.org/wiki-nftables/index.php/Sets, https://docs.kernel.org/networking/tproxy.html).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

from teleagent import transparent
from teleagent.application import MARK, SLOTS
from teleagent.nft import Nft, NftError, listening
from telewire.errors import TeleError, Unavailable

log = logging.getLogger(__name__)

TABLE = "telepresence_"
"""What the names of tables begin with; the port of the agent's listener follows."""
ALIVE = 2.0
RENEW_EACH = 0.5
"""Seconds that a port stays redirected without renewal, and between renewals."""
PRIORITY = -150
"""``mangle`` of slot 0; a higher slot comes later, and so decides."""
PROTOCOLS = ("tcp", "udp")
_FAMILIES = {socket.AF_INET: ("ipv4", "ip", "127.0.0.1"), socket.AF_INET6: ("ipv6", "ip6", "[::1]")}


def port_of(sock: socket.socket) -> int:
    """Return the port that ``sock`` is bound to."""
    port: int = sock.getsockname()[1]
    return port


def explained(error: NftError) -> Unavailable:
    """Return what nftables' refusal of a table means for the user."""
    text = str(error)
    if "not permitted" in text or "Permission denied" in text:
        return transparent.NotPermitted(
            f"redirecting needs the capability NET_ADMIN, which the agent's container does not have ({text})"
        )
    if "No such file" in text or "not supported" in text:
        return Unavailable(
            f"the node's kernel cannot redirect ({text}): it needs nf_tables with TPROXY (CONFIG_NFT_TPROXY), or use `replace`"
        )
    return Unavailable(f"nftables does not take the redirection: {text}")


def remove_dead_tables(nft: Nft) -> None:
    """Delete the tables of agents that have died: nothing listens on the port in their names. NftError."""
    tables = [name for name in nft.tables() if name.startswith(TABLE) and name[len(TABLE) :].isdecimal()]
    if not tables:
        return
    alive = listening() | listening("/proc/net/tcp6")  # after the tables: a live one's listener is older than the table
    for name in tables:
        if int(name[len(TABLE) :]) not in alive:
            log.info("removing the table %s of an agent that has died", name)
            nft.delete(name)


class Redirect:
    """What one slot redirects. ``protocol`` makes the protocol of a TCP connection, whose ``sockname`` is where its client wanted to go.

    Within one slot all TCP ports share a listener; each UDP port has sockets of its own, as an answer is told by them.
    """

    def __init__(self, nft: Nft, slot: int, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self.slot = slot
        self._nft = nft
        self._protocol = protocol
        self._servers: list[asyncio.Server] = []
        self._listeners: dict[socket.AddressFamily, int] = {}
        self._udp: dict[int, list[tuple[socket.AddressFamily, int]]] = {}
        self._ports: frozenset[tuple[int, str]] = frozenset()
        self._table = ""
        self._there = False
        self._current = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def own_port(self) -> int:
        """The port of the listener itself; 0 before there is one."""
        return self._listeners.get(socket.AF_INET, 0)

    async def open(self) -> None:
        """Listen, once and for all: what waits to be accepted must not be lost when the ports are given back. OSError, NotPermitted."""
        if self._listeners:
            return
        loop = asyncio.get_running_loop()
        sockets = transparent.pair(socket.SOCK_STREAM)
        self._listeners = {sock.family: port_of(sock) for sock in sockets}
        self._table = f"{TABLE}{self.own_port}"
        for sock in sockets:
            self._servers.append(await loop.create_server(self._protocol, sock=sock, backlog=transparent.BACKLOG))

    def set_udp(self, port: int, sockets: Iterable[socket.socket]) -> None:
        """Let datagrams for ``port``, while it is redirected, go to ``sockets``; nowhere without any."""
        self._udp[port] = [(sock.family, port_of(sock)) for sock in sockets]
        if not self._udp[port]:
            del self._udp[port]
        self._current = False

    def redirect(self, ports: Iterable[tuple[int, str]]) -> None:
        """Redirect exactly these ports and protocols from now on; delete the table if there are none and ``set_udp`` names none.

        Unavailable if that is not possible.
        """
        self._ports = frozenset(ports)
        self._cancel()
        if not self._ports and not self._udp:
            self.delete()
            return
        self._put()
        if self._ports:
            self._timer = asyncio.get_running_loop().call_later(RENEW_EACH, self._renew)

    def delete(self) -> None:
        """Redirect nothing any more."""
        self._cancel()
        self._ports = frozenset()
        if self._there:
            self._there = self._current = False
            self._nft.delete(self._table)

    def close(self) -> None:
        """Delete the table and stop listening."""
        self.delete()
        for server in self._servers:
            server.close()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put(self) -> None:
        """Make the kernel have it so; the whole table if it has been changed or is not there."""
        try:
            if self._current:
                try:
                    self._nft.run(self._elements())
                    return
                except NftError as error:
                    log.warning("making the table %s again: %s", self._table, error)
            self._nft.run(self._rules() + self._elements())
            self._there = self._current = True
        except NftError as error:
            self._current = False
            raise explained(error) from None

    def _renew(self) -> None:
        try:
            self._put()
        except TeleError as error:
            log.error("ports are not redirected at the moment: %s", error)
        self._timer = asyncio.get_running_loop().call_later(RENEW_EACH, self._renew)

    def _elements(self) -> str:
        """Return the commands that renew the ports: adding an element again would not renew it."""
        lines = []
        for protocol in PROTOCOLS:
            lines.append(f"flush set inet {self._table} {protocol}_ports")
            ports = ", ".join(f"{port} timeout {ALIVE:g}s" for port, of in sorted(self._ports) if of == protocol)
            if ports:
                lines.append(f"add element inet {self._table} {protocol}_ports {{ {ports} }}")
        return "\n".join(lines) + "\n"

    def _rules(self) -> str:
        """Return the commands that make the table; they change one that is there."""
        table = f"inet {self._table}"
        outer = (
            MARK + self.slot + 1,
            MARK + SLOTS - 1,
        )  # what comes over the loopback is redirected only from these marks
        rules = [f"iif lo meta mark < {outer[0]:#x} accept", f"iif lo meta mark > {outer[1]:#x} accept"]
        for family, port in self._listeners.items():
            nfproto, ip, loopback = _FAMILIES[family]
            rules.append(f"meta nfproto {nfproto} tcp dport @tcp_ports tproxy {ip} to {loopback}:{port} accept")
        answers = []
        for port, sockets in self._udp.items():
            for family, own in sockets:
                nfproto, ip, loopback = _FAMILIES[family]
                rules.append(
                    f"meta nfproto {nfproto} udp dport {port} udp dport @udp_ports tproxy {ip} to {loopback}:{own} accept"
                )
                answers.append(f"meta nfproto {nfproto} udp sport {own} udp sport set {port} notrack")
        return "\n".join(
            [
                f"add table {table}",
                *(
                    f"add set {table} {protocol}_ports {{ type inet_service; flags timeout; }}"
                    for protocol in PROTOCOLS
                ),
                f"add chain {table} arriving {{ type filter hook prerouting priority {PRIORITY + self.slot}; policy accept; }}",
                f"flush chain {table} arriving",
                *(f"add rule {table} arriving {rule}" for rule in rules),
                f"add chain {table} answering {{ type filter hook output priority raw; policy accept; }}",
                f"flush chain {table} answering",
                *(f"add rule {table} answering {rule}" for rule in answers),
                "",
            ]
        )
