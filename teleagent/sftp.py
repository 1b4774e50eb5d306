"""An SFTP version 3 server, bare on a byte stream (draft-ietf-secsh-filexfer-02), for the files below a root.

Stock ``sshfs -o directport`` can mount it: ``python3 -m teleagent.sftp --listen 127.0.0.1:PORT --root DIRECTORY``.

File calls run in threads, so that a slow disk holds nothing else up. Requests that only read may overtake each other and are answered
in order of completion, but for the parts of one directory, whose last one is the end to a client that has asked for several at once;
a request that changes something waits for all before it and is waited for by all after it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from teleagent.calls import LISTING_BYTES, Calls
from telewire import sftp
from telewire.errors import TeleError
from telewire.sftp import Reader

THREADS = 4
JOB_BYTES = 128 * 1024
"""Answers that are put together in one go."""
BEHIND_BYTES = 2 << 20
"""Answers that are being made or not taken yet, before no more requests are read: the agent shares the pod's memory limit."""
SMALL = 512
"""Bytes that the answer to a small request is taken for."""

_READING = frozenset((sftp.LSTAT, sftp.STAT, sftp.FSTAT, sftp.OPENDIR, sftp.REALPATH, sftp.READLINK))


class Channel(Protocol):
    """What the server speaks over: a stream of a session, or a TCP connection."""

    async def read(self, limit: int = ..., /) -> bytes:
        """Return some bytes; empty at the end."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""

    async def drain(self) -> None:
        """Wait until the other end keeps up. Never called twice at the same time."""


@dataclass(slots=True)
class Job:
    """Requests that are answered one after the other in one thread.

    :ivar exclusive: nothing else is done meanwhile
    :ivar listing: the handle of the directory whose parts they ask for, if they do
    """

    exclusive: bool
    listing: bytes | None
    cost: int
    packets: list[bytes]


def listing(packet: bytes) -> bytes | None:
    """Return the handle of the directory that is read, None for another request. SftpError if the packet is cut short."""
    if packet[0] != sftp.READDIR:
        return None
    reader = Reader(packet)
    reader.u8(), reader.u32()
    return bytes(reader.view())


def cost(packet: bytes) -> int | None:
    """Return about how many bytes the answer to a request that only reads has; None for one that may change something.

    SftpError if the packet is cut short where that is to be seen.
    """
    reader = Reader(packet)
    kind = reader.u8()
    if kind in _READING:
        return SMALL
    if kind == sftp.READ:
        reader.u32(), reader.view(), reader.u64()
        return SMALL + min(reader.u32(), sftp.MAX_DATA)
    if kind == sftp.READDIR:
        return 2 * LISTING_BYTES
    if kind == sftp.OPEN:
        reader.u32(), reader.view()
        return SMALL if reader.u32() == sftp.OPEN_READ else None
    if kind == sftp.EXTENDED:
        reader.u32()
        name = reader.string()
        if name == sftp.EXT_READFILES.encode():
            reader.view(), reader.u32()
            return 2 * LISTING_BYTES + min(reader.u32(), sftp.READFILES_BYTES)
        if name == sftp.EXT_STATVFS.encode():
            return SMALL
    return None


def plan(packets: list[bytes]) -> Iterator[Job]:
    """Yield the jobs that ``packets`` make, in order."""
    job: Job | None = None
    for packet in packets:
        expected = cost(packet)
        exclusive, listed = expected is None, listing(packet)
        if job is not None and ((job.exclusive, job.listing) != (exclusive, listed) or job.cost >= JOB_BYTES):
            yield job
            job = None
        if job is None:
            job = Job(exclusive, listed, 0, [])
        job.cost += expected or SMALL
        job.packets.append(packet)
    if job is not None:
        yield job


class SftpServer:
    """One client's server."""

    def __init__(self, root: str, *, read_only: bool = False) -> None:
        self._calls = Calls(root, read_only=read_only)
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, "sftp")
        self._running: set[asyncio.Future[bytes]] = set()
        self._jobs: set[asyncio.Task[None]] = set()
        self._listings: dict[bytes, asyncio.Task[None]] = {}
        self._behind = 0
        self._draining = asyncio.Lock()

    async def serve(self, channel: Channel) -> None:
        """Answer requests until the channel ends. SftpError if the client does not speak SFTP; what the channel raises."""
        splitter = sftp.PacketSplitter(sftp.MAX_REQUEST)
        loop = asyncio.get_running_loop()
        while data := await channel.read(262144):
            for job in plan(splitter.feed(data)):
                if job.exclusive:
                    await self._settle(0)
                    await self._run(job, channel)
                else:
                    await self._settle(BEHIND_BYTES - job.cost)
                    self._behind += job.cost
                    before = self._listings.get(job.listing) if job.listing is not None else None
                    task = loop.create_task(self._run_shared(job, channel, before))
                    self._jobs.add(task)
                    if job.listing is not None:
                        self._listings[job.listing] = task
        await self._settle(0)

    async def close(self) -> None:
        """Close all that the client left open, once the file calls that run have returned."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, *self._running, return_exceptions=True)
        self._pool.shutdown(wait=False)
        self._calls.close()

    async def _settle(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes of answers are under way, or none."""
        while self._jobs and (self._behind > limit or any(job.done() for job in self._jobs)):
            done, self._jobs = await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()

    async def _run_shared(self, job: Job, channel: Channel, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._run(job, channel)
        finally:
            self._behind -= job.cost
            if job.listing is not None and self._listings.get(job.listing) is asyncio.current_task():
                del self._listings[job.listing]

    async def _run(self, job: Job, channel: Channel) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, job.packets)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        answer = await asyncio.shield(future)
        channel.write(answer)
        async with self._draining:
            await channel.drain()

    def _answer(self, packets: list[bytes]) -> bytes:
        answers = [self._calls.answer(packet) for packet in packets]
        return answers[0] if len(answers) == 1 else b"".join(answers)


class _TcpChannel:
    """A TCP connection, as the server wants its channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.read, self.write, self.drain = reader.read, writer.write, writer.drain


async def listen(host: str, port: int, root: str, *, read_only: bool) -> asyncio.Server:
    """Serve ``root`` to whoever connects; return the listening server. OSError if the address cannot be had."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = SftpServer(root, read_only=read_only)
        try:
            await server.serve(_TcpChannel(reader, writer))
        except (TeleError, ConnectionError) as error:
            sys.stderr.write(f"sftp: {error}\n")
        finally:
            await server.close()
            writer.close()

    return await asyncio.start_server(serve, host, port)


async def _stand_alone(address: str, root: str, *, read_only: bool) -> None:
    host, _, port = address.rpartition(":")
    async with await listen(host, int(port), root, read_only=read_only) as listening:
        await listening.serve_forever()


def main() -> None:
    """Serve one directory until a signal."""
    import argparse  # not at the top: the agent in a pod has no use for it

    parser = argparse.ArgumentParser(prog="teleagent.sftp", description="Serve a directory by bare SFTP.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--root", required=True)
    parser.add_argument("--read-only", action="store_true")
    options = parser.parse_args()
    try:
        asyncio.run(_stand_alone(options.listen, options.root, read_only=options.read_only))
    except (OSError, ValueError) as error:
        sys.exit(f"teleagent.sftp: {options.listen}, {options.root}: {error}")


if __name__ == "__main__":
    main()
