"""Who may speak with the daemon: the engine's host, not a container beside it and not a handler."""

from __future__ import annotations

from typing import cast

import pytest

from teledaemon.links import Links
from teledaemon.peers import Peers


class Container:
    """The links that an engine gives its container."""

    def __init__(self, *addresses: tuple[str, int, str], routes: list[tuple[str, str]] | None = None) -> None:
        self._addresses, self._routes = addresses, routes or []

    async def addresses(self) -> list[tuple[str, int, str]]:
        return list(self._addresses)

    async def default_routes(self) -> list[tuple[str, str]]:
        return self._routes


async def learned(*addresses: tuple[str, int, str], routes: list[tuple[str, str]] | None = None) -> Peers:
    peers = Peers()
    await peers.learn(cast("Links", Container(*addresses, routes=routes)))
    return peers


@pytest.fixture
async def peers() -> Peers:
    return await learned(
        ("127.0.0.1", 8, "lo"),
        ("172.17.0.2", 16, "eth0"),
        ("172.20.0.3", 16, "eth1"),
        ("fd00:17::2", 64, "eth0"),
        ("fe80::2", 64, "eth0"),
        routes=[("172.20.0.254", "eth1")],
    )


@pytest.mark.parametrize(
    "peer",
    [
        "127.0.0.1",
        "::1",
        "172.17.0.1",
        "172.20.0.1",
        "172.20.0.254",
        "fd00:17::1",
        "::ffff:172.17.0.1",
        "::ffff:127.0.0.1",
    ],
)
def test_the_host_is_admitted(peers: Peers, peer: str) -> None:
    assert peers.admits(peer, [])


@pytest.mark.parametrize(
    "peer", ["172.17.0.3", "172.20.7.7", "fd00:17::3", "fe80::3", "fe80::3%eth0", "::ffff:172.17.0.3", "172.17.0.2"]
)
def test_a_neighbour_is_not(peers: Peers, peer: str) -> None:
    assert not peers.admits(peer, [])


def test_a_handler_is_not(peers: Peers) -> None:
    pools = ["172.30.0.0/24", "fd00:30::/64"]
    assert not peers.admits("172.30.0.2", pools)
    assert not peers.admits("172.30.0.1", pools)
    assert not peers.admits("fd00:30::2", pools)
    assert peers.admits("127.0.0.1", pools)


async def test_links_of_our_own_making_tell_nothing() -> None:
    peers = await learned(("172.17.0.2", 16, "eth0"), ("172.30.0.1", 24, "tb0123456789abc"), ("198.18.0.1", 32, "tel0"))
    assert not peers.admits("172.30.0.1", ["172.30.0.0/24"])


async def test_an_address_may_be_a_network_of_its_own() -> None:
    peers = await learned(("10.0.0.5", 32, "eth0"), ("fd00::5", 128, "eth0"), routes=[("169.254.1.1", "eth0")])
    assert peers.admits("169.254.1.1", [])
    assert not peers.admits("10.0.0.5", [])
