"""An agent in this process, and a daemon's end of a session with it over a real connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from teleagent.agent import Agent
from telewire.session import Session
from tests.teleagent.pod import Link as ClientLink
from tests.teleagent.pod import Pod


async def open_session(port: int) -> Session:
    """Return a new session with the agent on ``port``."""
    session = Session(client=True)
    _, link = await asyncio.get_running_loop().create_connection(lambda: ClientLink(session), "127.0.0.1", port)
    async with asyncio.timeout(5):
        await link.ready
    return session


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    """An agent that runs in this process."""
    made = Agent()
    yield made
    await made.close()
    await asyncio.sleep(0.01)


@pytest.fixture
async def agent_port(agent: Agent) -> int:
    """The port on which the agent takes sessions."""
    sock = socket.create_server(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    await agent.start(sock)
    return port


@pytest.fixture
async def sessions(agent_port: int) -> AsyncIterator[Callable[[], Awaitable[Session]]]:
    """Opens sessions with the agent."""
    opened: list[Session] = []

    async def another() -> Session:
        opened.append(await open_session(agent_port))
        return opened[-1]

    yield another
    for session in opened:
        session.close()
    await asyncio.sleep(0.01)


@pytest.fixture
async def session(sessions: Callable[[], Awaitable[Session]]) -> Session:
    """A session with the agent."""
    return await sessions()


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    """A pod with its client; what agents logged is shown when a test fails."""
    made = Pod()
    try:
        yield made
    finally:
        print(await made.close())


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true; TimeoutError if it does not become so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
