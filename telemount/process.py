"""The FUSE processes: one for each mounted volume, started and watched by the driver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from typing import Protocol

from telemount.options import Options
from telewire.errors import TeleError, Unavailable

log = logging.getLogger(__name__)

READY = 15.0
"""Seconds in which a process has to be ready: it tries for 5 s to connect, asks once, and mounts."""


class Served(Protocol):
    """A file system that is being served."""

    @property
    def alive(self) -> bool:
        """Whether it still is."""

    async def ended(self) -> None:
        """Wait until it is no more."""

    async def stop(self, grace: float) -> None:
        """End it: by itself within ``grace`` seconds, since it is unmounted, or else at once."""


class Process:
    """A running ``telemount.child``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None

    async def ended(self) -> None:
        """Wait until it does not run any more."""
        await self._process.wait()

    async def stop(self, grace: float) -> None:
        """Wait ``grace`` seconds for its end, then kill it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._process.wait()
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def spawn() -> asyncio.subprocess.Process:
    """Start a process that waits to be told what to mount. OSError."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "telemount.child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def start(
    options: Options, target: str, *, wait: bool, waiting: asyncio.subprocess.Process | None = None
) -> Process:
    """Mount a volume at ``target``, by the process that is ``waiting`` if there is one; return it. Unavailable says why not.

    With ``wait`` the server has to answer now; without, the file system waits for it.
    """
    process = waiting or await spawn()
    made = Process(process)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        asked = {"options": options.to_json(), "target": target, "wait": wait}
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.close()
        async with asyncio.timeout(READY):
            answer = (await process.stdout.readline()).decode(errors="replace").strip()
    except TimeoutError:
        await made.stop(0)
        raise Unavailable(f"the file system was not ready within {READY:g} s; see the engine's log") from None
    except (OSError, asyncio.CancelledError):
        await made.stop(0)
        raise
    if answer == "ready":
        return made
    await made.stop(1)
    kind, _, why = answer.partition(" ")
    if kind != "error":
        raise TeleError("the file system's process ended at once; see the engine's log")
    raise Unavailable(why)
