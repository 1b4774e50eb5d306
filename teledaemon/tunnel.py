"""A tunnel: the session with the agent of one pod, kept up over links that break."""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from teledaemon.kube import Cluster
from teledaemon.portforward import open_link
from telewire import names
from telewire.errors import Forbidden, NotFound, TeleError, Unavailable
from telewire.handshake import SessionUnknown
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.05, 5.0, 1.4
RESUME_TIMEOUT = 120.0


def stamp(seconds: float | None = None) -> str:
    """Return a point in time (default now) as RFC 3339 has it, in UTC."""
    moment = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


class Tunnel:
    """Runs until :meth:`close`.

    ``on_session`` is awaited with each new session: the first one, and those after the agent forgot the one before. ``on_stream`` gets
    the streams that the agent opens.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        pod: str,
        token: str,
        *,
        port: int = names.AGENT_PORT,
        on_session: Callable[[Session], Awaitable[None]] | None = None,
        on_stream: Callable[[Stream], None] | None = None,
    ) -> None:
        self.cluster, self.namespace, self.pod = cluster, namespace, pod
        self.state = "connecting"
        self.since = stamp()
        self.error: str | None = None
        self.attempts = 0
        self.session: Session | None = None
        self.ready = asyncio.Event()
        """Set while a session has (or had, and may resume) a link, and ``on_session`` has done its part."""
        self._token, self._port = token, port
        self._on_session = on_session
        self._on_stream = on_stream
        self._broken = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tunnel-{pod}")

    def describe(self) -> dict[str, Any]:
        """Return what the control API tells of it."""
        return {
            "pod": self.pod,
            "state": self.state,
            "since": self.since,
            "error": self.error,
            "attempts": self.attempts,
        }

    def hurry(self) -> None:
        """Try at once: something has changed (the pod runs, credentials came)."""
        self._hurry.set()

    async def close(self) -> None:
        """End it: streams are reset, the link is closed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.session is not None:
            self.session.close("the tunnel was closed")
        self.ready.clear()
        self._turn("closed")

    async def wait_ready(self, timeout: float) -> Session:
        """Return the session as soon as it is ready. Unavailable with the last error if it is not within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.ready.wait()
        except TimeoutError:
            raise Unavailable(f"no agent answered in pod {self.pod}: {self.error or 'no answer'}") from None
        assert self.session is not None
        return self.session

    def _turn(self, state: str) -> None:
        if state != self.state:
            self.state, self.since = state, stamp()
            log.info("tunnel to %s: %s%s", self.pod, state, f" ({self.error})" if self.error else "")

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            session = self.session
            if session is None or session.closed.done():
                self.ready.clear()
                session = self.session = self._new_session()
            self._broken.clear()
            try:
                self.attempts += 1
                await open_link(self.cluster, self.namespace, self.pod, session, self._token, self._port)
                await self._linked(session)
                pause = FIRST_PAUSE
            except SessionUnknown as error:
                self.error = str(error)
                session.close(str(error))
                continue
            except Exception as error:  # a tunnel never gives up by itself
                if not isinstance(error, TeleError):
                    log.exception("tunnel to %s", self.pod)
                self.error = str(error)
                self._turn("failed" if isinstance(error, (Forbidden, NotFound)) else self._waiting_state())
                hurried = await self._sleep(pause * random.uniform(0.7, 1.3))
                pause = FIRST_PAUSE if hurried else min(pause * GROWTH, LONGEST_PAUSE)

    def _waiting_state(self) -> str:
        return "reconnecting" if self.ready.is_set() or self.state == "reconnecting" else "connecting"

    async def _linked(self, session: Session) -> None:
        """Say that it is up, and wait until the link breaks or the session ends."""
        if not self.ready.is_set():
            if self._on_session is not None:
                await self._on_session(session)
            self.ready.set()
        self.error = None
        self.attempts = 0
        self._turn("connected")
        broken: asyncio.Future[Any] = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait(
                cast("list[asyncio.Future[Any]]", [broken, session.closed]), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            broken.cancel()
        self.error = session.last_error
        self._turn("reconnecting")

    def _new_session(self) -> Session:
        session = Session(client=True, on_stream=self._on_stream, resume_timeout=RESUME_TIMEOUT)
        session.on_link_lost = lambda _error: self._broken.set()
        return session

    async def _sleep(self, seconds: float) -> bool:
        """Return after ``seconds``, or at once when there is reason to hurry; whether there was."""
        self._hurry.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return False
        return True
