"""The daemon's side of engagements, and clients that keep asking, for tests of redirected ports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from telewire.messages import DatagramReader, pack_datagram, read_message, refuse, request, send_message
from telewire.session import Session
from telewire.stream import Stream
from tests.teleagent.pod import POD4, Pod

PORT = 8080


class Daemon:
    """Takes what is offered on a session: answers a name and what came; or refuses; or says nothing."""

    def __init__(self, session: Session, name: bytes = b"dev:", *, behaviour: str = "takes") -> None:
        self.name = name
        self.behaviour = behaviour
        self.messages: list[dict[str, Any]] = []
        self.streams: list[Stream] = []
        self.tasks: set[asyncio.Task[None]] = set()
        session.on_stream = self._on_stream

    def _on_stream(self, stream: Stream) -> None:
        task = asyncio.create_task(self._serve(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError):
            await self.serve(stream, await read_message(stream))

    async def serve(self, stream: Stream, message: dict[str, Any]) -> None:
        """Answer a stream whose message has been read."""
        self.messages.append(message)
        self.streams.append(stream)
        if self.behaviour == "refuses":
            refuse(stream, "refused", "nobody")
        elif self.behaviour == "takes":
            send_message(stream, {"ok": True})
            await (self._datagrams if message["protocol"] == "udp" else self._bytes)(stream)

    async def _bytes(self, stream: Stream) -> None:
        whole = b""
        while data := await stream.read():
            whole += data
        stream.write(self.name + whole)
        stream.close()

    async def _datagrams(self, stream: Stream) -> None:
        reader = DatagramReader()
        while data := await stream.read():
            for datagram in reader.feed(data):
                stream.write(pack_datagram(self.name + datagram))
        stream.close()


class Copies:
    """The daemon's end of copies: collects each, as ``behaviour`` says, and the figures of the listen stream."""

    def __init__(self, session: Session, behaviour: str = "takes", *, intercepts: Daemon | None = None) -> None:
        self.behaviour = behaviour
        self.messages: list[dict[str, Any]] = []
        self.streams: list[Stream] = []
        self.got: list[bytearray] = []
        self.whole: list[bytes] = []
        self.reports: list[tuple[float, dict[str, Any]]] = []
        self._intercepts = intercepts
        self._tasks: set[asyncio.Task[None]] = set()
        session.on_stream = lambda stream: self._run(self._serve(stream))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError):
            message = await read_message(stream)
            if message["op"] != "tap":
                assert self._intercepts is not None
                await self._intercepts.serve(stream, message)
                return
            self.messages.append(message)
            self.streams.append(stream)
            if self.behaviour == "refuses":
                refuse(stream, "refused", "nobody")
                return
            send_message(stream, {"ok": True})
            if self.behaviour == "never reads":
                return
            self.got.append(got := bytearray())
            while data := await stream.read():
                if self.behaviour == "resets":
                    stream.abort()
                    return
                got += data
            self.whole.append(bytes(got))
            stream.close()

    async def listen(self, session: Session, *ports: Any, slot: int = 1) -> Stream:
        """Tap ports."""
        stream = await listen(session, *ports, mode="wiretap", slot=slot)
        self._run(self._report(stream))
        return stream

    async def _report(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            while True:
                report = await read_message(stream, 3600)
                self.reports.append((time.monotonic(), report))

    @property
    def figures(self) -> dict[str, Any]:
        """The last figures that were told."""
        return self.reports[-1][1] if self.reports else {}


async def listen(session: Session, *ports: Any, mode: str = "intercept", slot: int = 0, **fields: Any) -> Stream:
    """Redirect ports; return the stream."""
    wanted = [{"port": port} if isinstance(port, int) else port for port in ports]
    stream, answer = await request(session, {"op": "listen", "ports": wanted, "mode": mode, "slot": slot, **fields})
    assert answer["failed"] == []
    return stream


class Answer(NamedTuple):
    """What became of a connection: when it began and ended, who answered or what went wrong."""

    began: float
    ended: float
    who: bytes | str


class Hammer:
    """A client that opens a connection every 20 ms and remembers who answered, or what went wrong."""

    def __init__(self, pod: Pod, host: str = POD4) -> None:
        self.answers: list[Answer] = []
        self._pod = pod
        self._host = host
        self._asks: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._asks.add(task := asyncio.create_task(self._ask()))
            task.add_done_callback(self._asks.discard)
            await asyncio.sleep(0.02)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            answer: bytes | str = (await self._pod.client.ask(PORT, b"x", self._host))[:4]
        except (OSError, asyncio.IncompleteReadError) as error:
            answer = repr(error)
        self.answers.append(Answer(began, time.monotonic(), answer))

    async def stop(self) -> list[Answer]:
        """Stop; return when each connection began and what came, in order."""
        self._task.cancel()
        while self._asks:
            await asyncio.wait(self._asks)
        return sorted(self.answers)


def failures(answers: list[Answer]) -> list[Answer]:
    """Return those that nobody answered."""
    return [answer for answer in answers if answer.who not in (b"app:", b"dev:", b"tap:", b"mid:")]


def who(answers: list[Answer], after: float, before: float) -> set[bytes | str]:
    """Return who answered the connections that began after one time and had ended before another."""
    return {answer.who for answer in answers if answer.began > after and answer.ended < before}
