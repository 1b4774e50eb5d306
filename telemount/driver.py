"""Docker's volume-driver protocol (https://docs.docker.com/engine/extend/plugins_volume/).

Get, List, Path and Capabilities answer from memory at once. Mount, Unmount and Remove of one volume come one after the other.
A file system whose process died is mounted anew over the dead mount, which reaches the containers that use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from telemount import mounts, process
from telemount.ahead import Ahead
from telemount.options import parse
from telemount.process import Served
from telemount.volumes import NoVolume, Volume, Volumes
from telewire.errors import BadRequest, TeleError

log = logging.getLogger(__name__)

DEADLINES = {"VolumeDriver.Mount": 25.0, "VolumeDriver.Unmount": 20.0, "VolumeDriver.Remove": 20.0}
"""Seconds a call may take; all others 5."""
GRACE = 3.0
"""Seconds that a process has to end by itself after its file system was unmounted and Docker has removed the volume."""
HEAL = (0.1, 0.5, 2.0, 5.0, 15.0)
"""Seconds before the tries to replace a process that died; the last one goes on."""

Start = Callable[..., Awaitable[Served]]


class Driver:
    """The volume driver. ``root`` is the plugin's propagated mount; volumes are mounted below it. ``ahead`` is told which may be next."""

    def __init__(self, volumes: Volumes, root: Path, start: Start = process.start, ahead: Ahead | None = None) -> None:
        self._volumes = volumes
        self._root = root
        self._start = start
        self._ahead = ahead
        self._serving: dict[str, Served] = {}
        self._lingering: dict[str, set[Served]] = {}
        """Unmounted, and perhaps still in use where a container has it."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._saving = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def methods(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]:
        """Return the calls by their names in the protocol."""
        calls = {
            "Capabilities": self.capabilities, "Create": self.create, "Remove": self.remove, "Mount": self.mount,
            "Unmount": self.unmount, "Path": self.path, "Get": self.get, "List": self.list,
        }  # fmt: skip
        return {f"VolumeDriver.{name}": call for name, call in calls.items()}

    # Answered from memory

    async def capabilities(self, _body: dict[str, Any]) -> dict[str, Any]:
        """Volumes are known to this engine only."""
        return {"Capabilities": {"Scope": "local"}}

    async def get(self, body: dict[str, Any]) -> dict[str, Any]:
        """Describe a volume."""
        return {"Volume": self._described(self._volumes.get(body.get("Name")))}

    async def list(self, _body: dict[str, Any]) -> dict[str, Any]:
        """Describe all volumes."""
        return {"Volumes": [self._described(volume) for volume in self._volumes.all()]}

    async def path(self, body: dict[str, Any]) -> dict[str, Any]:
        """Tell where a volume is mounted."""
        return {"Mountpoint": self._mountpoint(self._volumes.get(body.get("Name")))}

    def _mountpoint(self, volume: Volume) -> str:
        return str(self._target(volume)) if volume.users else ""

    def _target(self, volume: Volume) -> Path:
        return self._root / "volumes" / volume.name

    def _described(self, volume: Volume) -> dict[str, Any]:
        serving = self._serving.get(volume.name)
        status = {
            "address": volume.options.address,
            "dir": volume.options.dir,
            "read_only": volume.options.ro,
            "users": sum(volume.users.values()),
            "mounted": serving is not None and serving.alive,
        }
        if volume.options.export:
            status["export"] = volume.options.export
        return {
            "Name": volume.name,
            "Mountpoint": self._mountpoint(volume),
            "CreatedAt": volume.created,
            "Status": status,
        }

    # Changing

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add a volume; nothing is connected yet."""
        options = body.get("Opts")
        if options is not None and not isinstance(options, dict):
            raise BadRequest("the options of a volume have to be names and values")
        name, known = body.get("Name"), self._volumes.find(body.get("Name")) is not None
        self._volumes.create(name, parse(options))
        try:
            await self._save()
        except OSError:
            if not known:
                self._volumes.remove(name)
            raise
        if self._ahead is not None and not known:
            self._ahead.prepare(str(self._target(self._volumes.get(name))))
        return {}

    async def remove(self, body: dict[str, Any]) -> dict[str, Any]:
        """Forget a volume, which Docker knows to be unused whatever the count says."""
        name = body.get("Name")
        volume = self._volumes.find(name)
        if volume is None:
            return {}
        if self._ahead is not None:
            self._ahead.forget(str(self._target(volume)))
        async with self._lock(volume):
            volume.users.clear()
            await self._take_off(volume, GRACE)
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(self._target(volume).rmdir)
            self._volumes.remove(name)
            await self._save()
        self._locks.pop(volume.name, None)
        return {}

    async def mount(self, body: dict[str, Any]) -> dict[str, Any]:
        """Mount a volume unless it is, and count who uses it."""
        volume, user = self._volumes.get(body.get("Name")), str(body.get("ID") or "")
        async with self._lock(volume):
            if self._volumes.find(volume.name) is not volume:
                raise NoVolume(f"the volume {volume.name} has just been removed; create it again")
            await self._bring_up(volume, wait=True)
            volume.use(user)
            try:
                await self._save()
            except OSError:
                volume.leave(user)  # Docker takes it as not mounted
                raise
        return {"Mountpoint": str(self._target(volume))}

    async def unmount(self, body: dict[str, Any]) -> dict[str, Any]:
        """Count who does not use a volume any more; unmount after the last one."""
        volume = self._volumes.find(body.get("Name"))
        if volume is None:
            return {}
        async with self._lock(volume):
            volume.leave(str(body.get("ID") or ""))
            if not volume.users:
                await self._take_off(volume, None)
            await self._save()
        return {}

    def _lock(self, volume: Volume) -> asyncio.Lock:
        return self._locks.setdefault(volume.name, asyncio.Lock())

    async def _save(self) -> None:
        async with self._saving:
            # To its end also if the caller is gone: a state half written must not be written again meanwhile.
            await asyncio.shield(asyncio.to_thread(self._volumes.save))

    # File systems

    async def _bring_up(self, volume: Volume, *, wait: bool) -> None:
        """Have the volume mounted and served. TeleError says why it cannot be."""
        target = str(self._target(volume))
        serving = self._serving.get(volume.name)
        there = target in await asyncio.to_thread(mounts.mounted)
        if serving is not None and serving.alive and there:
            return
        if serving is not None:
            del self._serving[volume.name]
            await serving.stop(0)
        if there and not volume.users:
            await asyncio.to_thread(mounts.detach, target)
            there = False
        if not there:
            await asyncio.to_thread(self._target(volume).mkdir, parents=True, exist_ok=True)
        # Else: over the dead one, so that it also comes to lie over the dead one in the containers.
        try:
            serving = await self._start(volume.options, target, wait=wait)
        except BaseException:
            if not there:
                await asyncio.to_thread(mounts.detach, target)
            raise
        self._serving[volume.name] = serving
        self._run(self._watch(volume, serving))

    async def _take_off(self, volume: Volume, grace: float | None) -> None:
        """Unmount. The process ends when nobody uses the file system any more; with ``grace`` after so many seconds at the latest."""
        serving = self._serving.pop(volume.name, None)
        lingering = self._lingering.setdefault(volume.name, set())
        if serving is not None and serving.alive:
            lingering.add(serving)
        await asyncio.to_thread(mounts.detach, str(self._target(volume)))
        if grace is not None:
            await asyncio.gather(*(one.stop(grace) for one in lingering))
            self._lingering.pop(volume.name, None)

    async def _watch(self, volume: Volume, serving: Served) -> None:
        """Replace the process if it ends while the volume is mounted."""
        await serving.ended()
        self._lingering.get(volume.name, set()).discard(serving)
        tries = 0
        while not self._closing and self._serving.get(volume.name) is serving and volume.users:
            if not tries:
                log.warning("the process of volume %s died; mounting it again", volume.name)
            await asyncio.sleep(HEAL[min(tries, len(HEAL) - 1)])
            tries += 1
            async with self._lock(volume):
                if self._closing or self._serving.get(volume.name) is not serving or not volume.users:
                    return
                try:
                    await self._bring_up(volume, wait=False)
                except (TeleError, OSError) as error:
                    self._serving[volume.name] = serving
                    log.error("volume %s cannot be mounted again: %s", volume.name, error)

    async def restore(self) -> None:
        """Mount again what was mounted when this plugin ended, and take off what nobody needs."""
        there = await asyncio.to_thread(mounts.mounted)
        known = {str(self._target(volume)): volume for volume in self._volumes.all()}
        for target in sorted(there):
            if Path(target).parent == self._root / "volumes" and (target not in known or not known[target].users):
                log.info("unmounting %s, left behind", target)
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(mounts.detach, target)
        for target, volume in known.items():
            if not volume.users:
                continue
            if target in there:
                self._run(self._restore(volume))
            else:  # after a reboot: those containers are gone
                volume.users.clear()
                volume.restored.clear()
        await self._save()

    async def _restore(self, volume: Volume) -> None:
        tries = 0
        while not self._closing:
            async with self._lock(volume):
                if not volume.users or volume.name in self._serving:
                    return
                try:
                    await self._bring_up(volume, wait=False)
                    log.info("volume %s is mounted again", volume.name)
                    return
                except (TeleError, OSError) as error:
                    log.error("volume %s cannot be mounted again: %s", volume.name, error)
            await asyncio.sleep(HEAL[min(tries, len(HEAL) - 1)])
            tries += 1

    async def close(self) -> None:
        """End all processes. Mounts that containers use stay, dead, for the plugin's next start to heal."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for volume in self._volumes.all():
            if not volume.users:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(mounts.detach, str(self._target(volume)))
        if self._ahead is not None:
            await self._ahead.close()
        running = [*self._serving.values(), *(one for some in self._lingering.values() for one in some)]
        await asyncio.gather(*(serving.stop(0) for serving in running))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
