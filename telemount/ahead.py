"""Processes for volumes that were just created: most are mounted next, and then what takes the time is done."""

from __future__ import annotations

import asyncio
import contextlib

from telemount import process
from telemount.options import Options
from telemount.process import Process

KEPT = 20.0
"""Seconds that a process waits for its volume to be mounted."""
MOST = 8


class Ahead:
    """The processes that wait, by the place where their volume will be mounted."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[asyncio.subprocess.Process]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def prepare(self, target: str) -> None:
        """A volume was created: have a process wait for it, for a while."""
        if target in self._tasks or len(self._tasks) >= MOST:
            return
        loop = asyncio.get_running_loop()
        self._tasks[target] = loop.create_task(process.spawn())
        self._timers[target] = loop.call_later(KEPT, self.forget, target)

    async def start(self, options: Options, target: str, *, wait: bool) -> Process:
        """Mount a volume as :func:`telemount.process.start` does, by the process that waits for it if there is one."""
        waiting = None
        if (task := self._take(target)) is not None:
            with contextlib.suppress(OSError):
                waiting = await task
        if waiting is not None and waiting.returncode is not None:
            waiting = None
        return await process.start(options, target, wait=wait, waiting=waiting)

    def forget(self, target: str) -> None:
        """The volume is not mounted, or is gone: end its process, if one still waits."""
        if (task := self._take(target)) is not None:
            ending = asyncio.get_running_loop().create_task(self._end(task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all that wait."""
        for target in list(self._tasks):
            self.forget(target)
        await asyncio.gather(*self._ending)

    def _take(self, target: str) -> asyncio.Task[asyncio.subprocess.Process] | None:
        if (timer := self._timers.pop(target, None)) is not None:
            timer.cancel()
        return self._tasks.pop(target, None)

    async def _end(self, task: asyncio.Task[asyncio.subprocess.Process]) -> None:
        with contextlib.suppress(OSError):
            await Process(await task).stop(0)
