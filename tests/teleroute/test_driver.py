"""The driver alone: what it remembers and undoes, also when calls come twice, out of order or all at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from teleroute.driver import DEADLINES, Driver
from teleroute.links import process_in
from teleroute.options import Network
from telewire.errors import Conflict, NotFound, TeleError, Unavailable
from telewire.plugin import DEFAULT_DEADLINE
from telewire.state import StateFile
from tests.teleroute.recorded import GENERIC, RECORDINGS, Call, calls

OPTIONS = {"daemon": "172.17.0.2:4038", "token": "0123456789abcdef"}
NETWORK, FIRST, SECOND = "a" * 64, "1" * 64, "2" * 64
NAMESPACE = 4026531840


class World:
    """A daemon and a kernel that do as they are told, unless ``refuse`` names what they do not; and the driver over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuse: dict[str, Exception] = {}
        self.networks: dict[str, dict[str, str]] = {}
        self.links: dict[str, str] = {}
        self.restart()

    def restart(self) -> None:
        """Start the driver anew from what is on the disk."""
        self.driver = Driver(StateFile(self.folder / "state.json"), self, self)  # type: ignore[arg-type]

    async def call(self, name: str, **body: Any) -> dict[str, Any]:
        """Make a call as dockerd does."""
        return await self.driver.methods()[f"NetworkDriver.{name}"](body)

    async def create_network(self) -> None:
        """Create a network."""
        data = [{"Pool": "10.81.0.0/24", "Gateway": "10.81.0.1/24"}]
        await self.call("CreateNetwork", NetworkID=NETWORK, Options={GENERIC: OPTIONS}, IPv4Data=data)

    async def create_endpoint(self, endpoint: str = FIRST) -> None:
        """Create an endpoint."""
        await self.call("CreateEndpoint", NetworkID=NETWORK, EndpointID=endpoint, Interface={"Address": "10.81.0.2/24"})

    async def _turn(self, name: str) -> None:
        await asyncio.sleep(0)
        if name in self.refuse:
            raise self.refuse[name]

    # The daemon's client.

    async def put_network(self, network: Network) -> tuple[int, list[str]]:
        await self._turn("put_network")
        self.networks.setdefault(network.id, {})
        return NAMESPACE, []

    async def delete_network(self, network: Network) -> None:
        await self._turn("delete_network")
        self.networks.pop(network.id, None)

    async def put_endpoint(self, network: Network, endpoint: str, interface: str, addresses: list[str]) -> list[str]:
        await self._turn("put_endpoint")
        self.networks[network.id][endpoint] = interface
        return ["10.96.0.0/12"]

    async def delete_endpoint(self, network: Network, endpoint: str) -> None:
        await self._turn("delete_endpoint")
        there = self.networks.get(network.id, {}).pop(endpoint, None)
        self.links = {here: peer for here, peer in self.links.items() if peer != there}

    # The kernel's links.

    async def create(self, name: str, peer: str, namespace: int, mac: str, mtu: int | None) -> None:
        await self._turn("create")
        assert namespace == NAMESPACE
        self.links[name] = peer

    async def remove(self, name: str) -> None:
        await self._turn("remove")
        self.links.pop(name, None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The driver over fakes."""
    return World(tmp_path)


async def make(world: World, made: Iterable[Call]) -> None:
    """Make calls in whatever order; each is answered, or refused in one line."""
    for call in made:
        if call.name == "START":
            world.restart()
        elif call.name != "GwAllocCheck":
            said = ""
            try:
                assert isinstance(await world.call(call.name, **(call.body or {})), dict)
            except TeleError as error:
                said = str(error)
            assert not said or call.name in ("CreateNetwork", "CreateEndpoint", "Join")
            assert len(said.splitlines()) < 2


async def end(world: World, made: Iterable[Call]) -> None:
    """Delete everything that the calls speak of, and check that nothing is left."""
    for call in made:
        if call.endpoint:
            await world.call("DeleteEndpoint", NetworkID=call.network, EndpointID=call.endpoint)
    for call in made:
        if call.network:
            await world.call("DeleteNetwork", NetworkID=call.network)
    assert world.links == {}
    assert world.networks == {}
    assert StateFile(world.folder / "state.json").load() in ({}, {"networks": {}, "endpoints": {}})


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("how", ["repeated", "cut short", "shuffled", "reversed", "at once"])
async def test_calls_in_any_order_leave_nothing(world: World, path: Path, how: str) -> None:
    made = list(calls(path, OPTIONS))
    if how == "repeated":
        await make(world, (one for call in made for one in (call, call)))
    elif how == "cut short":
        await make(world, made[: len(made) // 3])
        world.restart()
        await make(world, made[len(made) // 2 :])
    elif how == "shuffled":
        for seed in range(3):
            await make(world, random.Random(seed).sample(made, len(made)))
    elif how == "reversed":
        await make(world, reversed(made))
    else:
        await asyncio.gather(*(make(world, [call]) for call in made if call.name != "START"))
    await end(world, made)


async def test_a_network_that_the_daemon_refuses_is_not_remembered(world: World) -> None:
    world.refuse["put_network"] = Unavailable("no Telepresence daemon answers")
    with pytest.raises(Unavailable):
        await world.create_network()
    world.restart()
    with pytest.raises(NotFound, match="is unknown to Teleroute"):
        await world.create_endpoint()


async def test_a_network_that_cannot_be_saved_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: object, _state: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(StateFile, "save", full)
        with pytest.raises(OSError, match="No space"):
            await world.create_network()
    assert world.networks == {}
    with pytest.raises(NotFound):
        await world.create_endpoint()


@pytest.mark.parametrize("what", ["create", "put_endpoint"])
async def test_a_join_that_fails_leaves_no_link(world: World, what: str) -> None:
    await world.create_network()
    await world.create_endpoint()
    world.refuse[what] = TeleError("the kernel refuses")
    with pytest.raises(TeleError, match="the kernel refuses"):
        await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert world.links == {}
    world.refuse.clear()
    await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert world.links == {"tr1111111111111": "te1111111111111"}


async def test_a_join_that_is_given_up_leaves_no_link(world: World) -> None:
    await world.create_network()
    await world.create_endpoint()

    async def never(*_: object) -> list[str]:
        await asyncio.sleep(60)
        return []

    world.put_endpoint = never  # type: ignore[method-assign,assignment]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert world.links == {}


async def test_a_peer_that_stays_in_the_way_is_told(world: World) -> None:
    await world.create_network()
    await world.create_endpoint()
    world.refuse["create"] = Conflict("the kernel refuses the veth pair tr1111111111111: File exists")
    with pytest.raises(Conflict, match="File exists"):
        await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)


@pytest.mark.parametrize("error", [Unavailable("gone"), NotFound("unknown")])
async def test_what_the_daemon_says_of_the_end_hinders_nobody(world: World, error: TeleError) -> None:
    await world.create_network()
    await world.create_endpoint()
    await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)
    world.refuse.update({"delete_endpoint": error, "delete_network": error})
    assert await world.call("DeleteEndpoint", NetworkID=NETWORK, EndpointID=FIRST) == {}
    assert await world.call("DeleteNetwork", NetworkID=NETWORK) == {}
    assert world.links == {}


async def test_endpoints_are_remembered_by_the_network_they_are_on(world: World) -> None:
    await world.create_network()
    await world.create_endpoint(FIRST)
    await world.create_endpoint(SECOND)
    await world.call("DeleteNetwork", NetworkID=NETWORK)
    await world.create_network()
    with pytest.raises(NotFound, match="endpoint 111111111111 is unknown; start the container again"):
        await world.call("Join", NetworkID=NETWORK, EndpointID=FIRST)


async def test_a_state_file_that_cannot_be_read_is_set_aside(world: World) -> None:
    (world.folder / "state.json").write_text('{"networks": {"a')
    world.restart()
    await world.create_network()
    assert [path.name.split("-")[0] for path in world.folder.iterdir() if "corrupt" in path.name] == ["state.corrupt"]


def test_every_call_ends_before_dockerd_gives_up() -> None:
    assert max(DEFAULT_DEADLINE, *DEADLINES.values()) < 30


def test_a_daemon_on_another_machine_is_told(tmp_path: Path) -> None:
    for process in ("17", "18", "self"):
        (tmp_path / process / "ns").mkdir(parents=True)
        (tmp_path / process / "ns" / "net").touch()
    (tmp_path / "19").mkdir()
    namespace = (tmp_path / "18" / "ns" / "net").stat().st_ino
    assert process_in(namespace, str(tmp_path)) == 18
    with pytest.raises(Unavailable, match="has to run on the same Docker Engine"):
        process_in((tmp_path / "self" / "ns" / "net").stat().st_ino, str(tmp_path))
