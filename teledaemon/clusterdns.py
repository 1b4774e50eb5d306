"""The cluster's own DNS, asked through the agent: many questions at once on one stream."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import dns.message

from telewire.errors import TeleError, Unavailable
from telewire.messages import DatagramReader, pack_datagram, request
from telewire.session import Session
from telewire.stream import Stream

TIMEOUT = 8.0
"""Seconds for one answer: the agent tries for less, the rest is for a tunnel that is being mended."""


class ClusterDns:
    """Asks over a stream of the session that ``session`` gives; a lost stream is opened again at the next question."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session
        self._stream: Stream | None = None
        self._opening: asyncio.Task[Stream] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def close(self) -> None:
        """Give up all questions."""
        for task in (self._reader, self._opening):
            if task is not None:
                task.cancel()
        if self._stream is not None:
            self._stream.close()

    async def ask(self, query: dns.message.Message) -> dns.message.Message:
        """Return the answer. Unavailable if none comes; DNSException if it is malformed."""
        number = random.randrange(65536)
        while number in self._waiting:
            number = (number + 1) % 65536
        query.id = number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(TIMEOUT):
                stream = await self._open()
                stream.write(pack_datagram(query.to_wire()))
                return dns.message.from_wire(await answer)
        except TimeoutError:
            raise Unavailable(f"the cluster's DNS did not answer within {TIMEOUT:.0f} s") from None
        except (OSError, EOFError) as error:
            raise Unavailable(f"the way to the cluster's DNS broke: {error}") from None
        finally:
            self._waiting.pop(number, None)

    async def _open(self) -> Stream:
        """Return the stream; several questions that come at once share one attempt to open it."""
        if self._stream is not None and not self._stream.is_closing():
            return self._stream
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open_anew())
        return await asyncio.shield(self._opening)

    async def _open_anew(self) -> Stream:
        stream, _ = await request(self._session(), {"op": "dns"}, TIMEOUT)
        self._stream = stream
        self._reader = asyncio.get_running_loop().create_task(self._read(stream))
        return stream

    async def _read(self, stream: Stream) -> None:
        reader = DatagramReader()
        failure: Exception = ConnectionResetError("the stream has ended")
        try:
            while data := await stream.read():
                for answer in reader.feed(data):
                    future = self._waiting.get(int.from_bytes(answer[:2], "big"))
                    if future is not None and not future.done():
                        future.set_result(answer)
        except (OSError, TeleError) as error:
            failure = error
        finally:
            stream.close()
            if self._stream is stream:
                self._stream = None
                for future in self._waiting.values():
                    if not future.done():
                        with contextlib.suppress(asyncio.InvalidStateError):
                            future.set_exception(failure)
