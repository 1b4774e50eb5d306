"""The driver against what three engines really sent, without mounting anything."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telemount import mounts
from telemount.driver import Driver
from telemount.options import Options
from telemount.volumes import Volumes
from telewire.errors import BadRequest, Conflict, NotFound, Unavailable
from telewire.state import StateFile

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.txt"))
ADDRESS = {"address": "127.0.0.1:22"}


class Fake:
    """A served file system that is none."""

    def __init__(self, kernel: set[str], target: str) -> None:
        self._kernel = kernel
        self._target = target
        self._end = asyncio.Event()
        kernel.add(target)

    @property
    def alive(self) -> bool:
        return not self._end.is_set()

    def die(self) -> None:
        self._end.set()

    async def ended(self) -> None:
        await self._end.wait()

    async def stop(self, grace: float) -> None:
        self._end.set()


class World:
    """A plugin that can be ended and started again, with what its kernel has mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kernel: set[str] = set()
        self.started: list[Fake] = []
        self.refuse = ""
        self.driver = self._new()

    def kill(self) -> Driver:
        """End the plugin and all its processes as kill -9 does, and start it anew."""
        for task in self.driver._tasks:
            task.cancel()
        for one in self.started:
            one.die()
        self.driver = self._new()
        return self.driver

    def _new(self) -> Driver:
        self.volumes = Volumes(StateFile(self.path / "state" / "volumes.json"))
        self.volumes.load()
        return Driver(self.volumes, self.path, self._start)

    async def _start(self, options: Options, target: str, *, wait: bool) -> Fake:
        await asyncio.sleep(0)
        if self.refuse:
            raise Unavailable(self.refuse)
        self.started.append(Fake(self.kernel, target))
        return self.started[-1]

    async def call(self, name: str, **body: Any) -> dict[str, Any]:
        """Call a method as Docker does."""
        return await self.driver.methods()[f"VolumeDriver.{name}"](body)

    @property
    def alive(self) -> int:
        return sum(one.alive for one in self.started)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(mounts, "mounted", lambda: set(made.kernel))
    monkeypatch.setattr(mounts, "detach", made.kernel.discard)
    return made


def recorded(path: Path) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return the calls of one engine: method, request, answer."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("/V."):
            name, _, rest = line.removeprefix("/V.").partition(" ")
            asked, _, answered = rest.partition(" -> 200 ")
            found.append((name, json.loads(asked), json.loads(answered)))
    return found


async def replay(world: World, calls: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    """Make the calls; each is answered, whatever came before."""
    for name, asked, _ in calls:
        body = dict(asked)
        if name == "Create":
            body["Opts"] = ADDRESS
        try:
            answer = await world.call(name, **body)
        except NotFound:
            assert world.volumes.find(asked["Name"]) is None
            continue
        if name == "Mount":
            assert answer == {"Mountpoint": str(world.path / "volumes" / asked["Name"])}
            assert answer["Mountpoint"] in world.kernel
        elif name == "Get":
            volume = world.volumes.get(asked["Name"])
            assert answer["Volume"]["Name"] == asked["Name"]
            assert bool(answer["Volume"]["Mountpoint"]) == bool(volume.users)
        elif name == "List":
            assert [one["Name"] for one in answer["Volumes"]] == [one.name for one in world.volumes.all()]
        else:
            assert answer == {}


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` is true; TimeoutError if it does not become so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def remove_all(world: World) -> None:
    """Remove every volume and check that nothing is left."""
    for volume in world.volumes.all():
        await world.call("Remove", Name=volume.name)
    assert not world.kernel
    assert not world.alive
    assert StateFile(world.path / "state" / "volumes.json").load() == {"volumes": {}}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
async def test_what_engines_sent(world: World, path: Path) -> None:
    calls = recorded(path)
    assert len(calls) > 90
    for name in ("v1", "vd"):
        await world.call("Create", Name=name, Opts=ADDRESS)
    await replay(world, calls)
    await replay(world, calls)
    await remove_all(world)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
async def test_the_same_with_restarts_and_in_any_order(world: World, path: Path) -> None:
    chance = random.Random(5)
    calls = recorded(path)
    for _ in range(3):
        await world.call("Create", Name="v1", Opts=ADDRESS)
        part = calls[: chance.randrange(1, len(calls))]
        chance.shuffle(part)
        middle = len(part) // 2
        await replay(world, part[:middle])
        world.kill()
        await world.driver.restore()
        await replay(world, part[middle:])
    await remove_all(world)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
async def test_the_same_at_once(world: World, path: Path) -> None:
    await world.call("Create", Name="v1", Opts=ADDRESS)
    await asyncio.gather(*(replay(world, [call]) for call in recorded(path)))
    await remove_all(world)


async def test_users_are_counted(world: World) -> None:
    await world.call("Create", Name="v", Opts=ADDRESS)
    target = str(world.path / "volumes" / "v")
    for user in ("a", "b", "a"):  # docker cp mounts once more with the container's ID
        await world.call("Mount", Name="v", ID=user)
    await world.call("Unmount", Name="v", ID="a")
    await world.call("Unmount", Name="v", ID="b")
    await world.call("Unmount", Name="v", ID="nobody")
    assert target in world.kernel
    assert len(world.started) == 1
    assert (await world.call("Path", Name="v")) == {"Mountpoint": target}
    await world.call("Unmount", Name="v", ID="a")
    assert target not in world.kernel
    assert (await world.call("Path", Name="v")) == {"Mountpoint": ""}
    await world.call("Unmount", Name="v", ID="a")
    await world.call("Unmount", Name="never", ID="a")


async def test_after_the_engine_crashed_the_same_user_counts_once(world: World) -> None:
    await world.call("Create", Name="v", Opts=ADDRESS)
    await world.call("Mount", Name="v", ID="a")
    world.kill()
    await world.driver.restore()
    await world.call("Mount", Name="v", ID="a")
    assert world.alive == 1
    await world.call("Unmount", Name="v", ID="a")
    assert not world.kernel


async def test_killed_it_mounts_again_what_is_used_and_nothing_else(world: World) -> None:
    for name in ("used", "unused", "rebooted"):
        await world.call("Create", Name=name, Opts=ADDRESS)
        await world.call("Mount", Name=name, ID="a")
    await world.call("Unmount", Name="unused", ID="a")
    world.kernel.add(str(world.path / "volumes" / "unknown"))
    world.kernel.add(str(world.path / "volumes" / "unused"))
    world.kernel.discard(str(world.path / "volumes" / "rebooted"))
    world.kill()
    await world.driver.restore()
    await until(lambda: world.alive)
    assert world.kernel == {str(world.path / "volumes" / "used")}
    listed = (await world.call("List"))["Volumes"]
    assert {one["Name"]: one["Status"]["users"] for one in listed} == {"used": 1, "unused": 0, "rebooted": 0}
    await world.driver.close()


async def test_a_process_that_dies_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemount.driver.HEAL", (0.0, 0.01))
    await world.call("Create", Name="v", Opts=ADDRESS)
    await world.call("Mount", Name="v", ID="a")
    world.refuse = "not now"
    world.started[0].die()
    await asyncio.sleep(0.05)
    assert not world.alive
    world.refuse = ""
    await until(lambda: world.alive)
    world.started[1].die()
    await until(lambda: len(world.started) == 3)
    await world.call("Unmount", Name="v", ID="a")
    await asyncio.sleep(0.05)
    assert len(world.started) == 3
    await remove_all(world)


async def test_a_mount_that_fails_leaves_nothing(world: World) -> None:
    await world.call("Create", Name="v", Opts=ADDRESS)
    world.refuse = "cannot reach the SFTP server at 127.0.0.1:22: refused; is it running?"
    with pytest.raises(Unavailable, match="cannot reach"):
        await world.call("Mount", Name="v", ID="a")
    assert world.volumes.get("v").users == {}
    assert not world.kernel
    await world.call("Unmount", Name="v", ID="a")
    world.refuse = ""
    await world.call("Mount", Name="v", ID="a")


async def test_a_mount_that_cannot_be_saved_is_not_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.call("Create", Name="v", Opts=ADDRESS)

    def full(_state: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(world.volumes._store, "save", full)
        with pytest.raises(OSError, match="No space"):
            await world.call("Mount", Name="v", ID="a")
        with pytest.raises(OSError, match="No space"):
            await world.call("Create", Name="w", Opts=ADDRESS)
    assert world.volumes.get("v").users == {}
    assert world.volumes.find("w") is None


async def test_creating(world: World) -> None:
    await world.call("Create", Name="v", Opts=ADDRESS)
    await world.call("Create", Name="v", Opts=ADDRESS)
    with pytest.raises(Conflict, match="docker volume rm v"):
        await world.call("Create", Name="v", Opts={"address": "127.0.0.1:23"})
    for name in ("", "../etc", "a/b", ".", None, 5, "x" * 300):
        with pytest.raises(BadRequest):
            await world.call("Create", Name=name, Opts=ADDRESS)
    with pytest.raises(NotFound, match="docker volume create"):
        await world.call("Get", Name="w")
    world.kill()
    assert (await world.call("Get", Name="v"))["Volume"]["CreatedAt"].endswith("Z")
    assert "token" not in json.dumps(await world.call("List"))


async def test_removing_while_it_is_counted(world: World) -> None:
    # Containers removed while the plugin was off are never told: Docker knows better.
    await world.call("Create", Name="v", Opts=ADDRESS)
    await world.call("Mount", Name="v", ID="a")
    await world.call("Remove", Name="v")
    await world.call("Remove", Name="v")
    await remove_all(world)


def test_mount_table() -> None:
    table = (
        "36 35 98:0 / /mnt/a\\040b rw - fuse.telemount telemount:h:1 rw\n"
        "37 35 98:0 / /mnt/c rw shared:1 master:2 - ext4 /dev/sda rw\n"
        "38 35 0:44 / /mnt/d rw shared:7 - fuse.telemount x rw\n"
    )
    assert mounts.mounted(table) == {"/mnt/a b", "/mnt/d"}
