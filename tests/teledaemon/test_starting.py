"""An engagement's start in two steps: environment and mounts are known, then every pod is engaged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from teledaemon.claims import Holder
from teledaemon.connection import Connection
from teledaemon.engagement import Engagement, Means, Plan
from teledaemon.workloads import Workload
from telewire.errors import NotFound, Unavailable


class Stepped(Engagement):
    """What happens in the cluster is the test's to say; how often it was undone is counted."""

    def __init__(self) -> None:
        nothing: Any = None
        spec = {"template": {"spec": {"containers": [{"name": "app"}]}}}
        plan = Plan("ingest", "web", Workload("Deployment", "web", "default", {"spec": spec}), "app", [])
        holder = Holder("client", "me@here", "connection")
        super().__init__(plan, Means(nothing, holder, "image", "Never", nothing, nothing, nothing, nothing))
        self.known, self.rest = asyncio.Event(), asyncio.get_running_loop().create_future()
        self.failure: Unavailable | None = None
        self.undone = 0

    async def _start(self) -> None:
        try:
            if self.failure is not None:
                raise self.failure
            await self.known.wait()
            self._known.set()
            await self.rest
        except BaseException:
            await self._undo()
            raise
        self._turn("active")

    async def _put_back(self) -> None:
        self.undone += 1


@pytest.fixture
async def connection() -> Connection:
    nothing: Any = None
    return Connection(nothing)


async def begun(connection: Connection) -> Stepped:
    """Return an engagement of the connection whose environment is known."""
    made = Stepped()
    made.known.set()
    connection.engagements[made.id] = made
    await made.start()
    connection._spawn(connection._await_active(made))
    return made


async def test_it_is_told_before_every_pod_is_engaged(connection: Connection) -> None:
    made = await begun(connection)
    assert (await connection.until_active(made.id, 0.01)).state == "waiting"
    made.rest.set_result(None)
    assert (await connection.until_active(made.id, 5)).state == "active"
    assert made.undone == 0


async def test_what_fails_later_is_told_to_whoever_began_it(connection: Connection) -> None:
    made = await begun(connection)
    made.rest.set_exception(Unavailable("no port"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="no port"):
            await connection.until_active(made.id, 5)
        await asyncio.sleep(0.01)
    assert connection.engagements == {}
    assert made.undone == 1
    await connection.disengage(made.id)
    with pytest.raises(NotFound):
        await connection.until_active(made.id, 5)


async def test_what_fails_at_once_is_told_at_once() -> None:
    made = Stepped()
    made.failure = Unavailable("no pod")
    with pytest.raises(Unavailable, match="no pod"):
        await made.start()
    assert made.undone == 1


async def test_one_that_is_ended_meanwhile_is_undone_once(connection: Connection) -> None:
    made = await begun(connection)
    waiting = asyncio.ensure_future(connection.until_active(made.id, 5))
    await asyncio.sleep(0.01)
    await connection.disengage(made.id)
    with pytest.raises(NotFound, match="ended while it began"):
        await waiting
    assert made.undone == 1


async def test_one_that_is_ended_before_anything_is_known_says_so() -> None:
    made = Stepped()
    starting = asyncio.ensure_future(made.start())
    await asyncio.sleep(0.01)
    await made.stop()
    with pytest.raises(NotFound, match="ended while it began"):
        await starting
    assert made.undone == 1


async def test_whoever_gives_up_before_anything_is_known_leaves_nothing() -> None:
    made = Stepped()
    starting = asyncio.ensure_future(made.start())
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert made.undone == 1
