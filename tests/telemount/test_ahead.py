"""Processes that wait for a volume: used if it is mounted, ended if it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from telemount import ahead, mounts
from telemount.ahead import MOST, Ahead
from telemount.options import Options
from telewire.errors import Unavailable
from tests.telemount.conftest import free_port

pytestmark = pytest.mark.root


def content(path: Path) -> bytes:
    """Return what a file in /proc says, nothing when its thread or process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def waiting() -> list[int]:
    """Return the processes of volumes that this process has started."""
    children = [int(one) for task in Path("/proc/self/task").iterdir() for one in content(task / "children").split()]
    return [one for one in children if b"telemount.child" in content(Path(f"/proc/{one}/cmdline"))]


def nowhere() -> Options:
    return Options("127.0.0.1", free_port())


async def number_of(wanted: int) -> None:
    """Wait until there are so many."""
    for _ in range(500):
        if len(waiting()) == wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(waiting())


async def test_the_process_that_waits_is_the_one_that_mounts(tmp_path: Path) -> None:
    made = Ahead()
    made.prepare(str(tmp_path))
    made.prepare(str(tmp_path))
    await number_of(1)
    (before,) = waiting()
    serving = await made.start(nowhere(), str(tmp_path), wait=False)
    try:
        assert serving.pid == before
    finally:
        await serving.stop(0)
        mounts.detach(str(tmp_path))
    await made.close()
    await number_of(0)


async def test_without_one_that_waits_another_is_started(tmp_path: Path) -> None:
    made = Ahead()
    with pytest.raises(Unavailable):
        await made.start(nowhere(), str(tmp_path), wait=True)
    made.prepare(str(tmp_path))
    process = await next(iter(made._tasks.values()))
    process.kill()
    await process.wait()
    with pytest.raises(Unavailable):
        await made.start(nowhere(), str(tmp_path), wait=True)
    await number_of(0)


async def test_one_that_is_not_used_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Ahead()
    made.prepare("one")
    made.forget("one")
    made.forget("one")
    await number_of(0)
    monkeypatch.setattr(ahead, "KEPT", 0.1)
    for number in range(MOST + 5):
        made.prepare(str(number))
    assert len(made._tasks) == MOST
    await asyncio.sleep(0.2)
    assert not made._tasks
    await number_of(0)
    made.prepare("last")
    await made.close()
    await number_of(0)
