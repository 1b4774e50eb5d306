from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from pathlib import Path

import pytest

from teleagent import sftp as server
from teleagent.sftp import BEHIND_BYTES, JOB_BYTES, SftpServer, plan
from telewire import sftp
from telewire.messages import request
from telewire.session import Session
from telewire.sftp import Attrs, PacketSplitter, Reader, SftpError
from tests.teleagent.conftest import until

HANDLE = sftp.pack_string(b"h")


def ask(kind: int, number: int, *parts: bytes) -> bytes:
    return sftp.request(kind, number, *parts)


def body(packet: bytes) -> bytes:
    return packet[4:]


READ = body(ask(sftp.READ, 1, HANDLE, struct.pack(">QI", 0, 32768)))
STAT = body(ask(sftp.STAT, 2, sftp.pack_string(b"/")))
WRITE = body(ask(sftp.WRITE, 3, HANDLE, bytes(8), sftp.pack_string(b"x")))
LOOK = body(ask(sftp.OPEN, 4, sftp.pack_string(b"/f"), struct.pack(">I", sftp.OPEN_READ), bytes(4)))
MAKE = body(ask(sftp.OPEN, 5, sftp.pack_string(b"/f"), struct.pack(">I", sftp.OPEN_WRITE | sftp.OPEN_CREAT), bytes(4)))


def test_what_changes_something_is_alone() -> None:
    jobs = [(job.exclusive, job.packets) for job in plan([STAT, LOOK, WRITE, MAKE, STAT])]
    assert jobs == [(False, [STAT, LOOK]), (True, [WRITE, MAKE]), (False, [STAT])]


def test_jobs_are_bounded_by_what_they_answer() -> None:
    jobs = list(plan([READ] * 100))
    assert sum(len(job.packets) for job in jobs) == 100
    assert all(job.cost < JOB_BYTES + 40000 and not job.exclusive for job in jobs)
    assert len(jobs) > 20


def test_a_job_reads_of_one_directory_at_most() -> None:
    one, other = (body(ask(sftp.READDIR, 1, sftp.pack_string(handle))) for handle in (b"one", b"other"))
    jobs = [(job.listing, job.packets) for job in plan([STAT, one, one, other, STAT])]
    assert jobs == [(None, [STAT]), (b"one", [one]), (b"one", [one]), (b"other", [other]), (None, [STAT])]


def test_a_greedy_read_costs_what_it_can_get() -> None:
    greedy = body(ask(sftp.READ, 1, HANDLE, struct.pack(">QI", 0, 0xFFFFFFFF)))
    assert server.cost(greedy) == sftp.MAX_DATA + server.SMALL


@pytest.mark.parametrize("packet", [READ[:-3], READ[:3], LOOK[:-8]])
def test_packets_cut_short_are_no_sftp(packet: bytes) -> None:
    with pytest.raises(SftpError):
        server.cost(packet)


class Pipe:
    """A channel in memory whose other end may be slow to take answers."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.drains = 0

    async def read(self, _limit: int = 0) -> bytes:
        return await self.requests.get()

    def write(self, data: bytes) -> None:
        self.answers.append(data)

    async def drain(self) -> None:
        self.drains += 1
        assert self.drains == 1
        await self.open.wait()
        self.drains -= 1

    def packets(self) -> list[tuple[int, int, Reader]]:
        found = []
        for packet in PacketSplitter().feed(b"".join(self.answers)):
            reader = Reader(packet)
            found.append((reader.u8(), reader.u32(), reader))
        return found


async def open_file(pipe: Pipe, path: bytes, flags: int) -> bytes:
    pipe.requests.put_nowait(ask(sftp.OPEN, 9, sftp.pack_string(path), struct.pack(">I", flags), bytes(4)))
    await until(pipe.packets)
    ((kind, _, reader),) = pipe.packets()
    assert kind == sftp.HANDLE
    pipe.answers.clear()
    return sftp.pack_string(reader.string())


async def test_answers_wait_while_nobody_takes_them(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(sftp.MAX_DATA))
    pipe, made = Pipe(), SftpServer(str(tmp_path))
    task = asyncio.create_task(made.serve(pipe))
    handle = await open_file(pipe, b"/f", sftp.OPEN_READ)
    pipe.open.clear()
    reads = [ask(sftp.READ, number, handle, struct.pack(">QI", 0, sftp.MAX_DATA)) for number in range(200)]
    pipe.requests.put_nowait(b"".join(reads))
    await until(lambda: len(pipe.answers) > 2)
    await asyncio.sleep(0.1)
    assert sum(map(len, pipe.answers)) <= BEHIND_BYTES
    pipe.open.set()
    pipe.requests.put_nowait(b"")
    async with asyncio.timeout(20):
        await task
    assert sorted(number for _, number, _ in pipe.packets()) == list(range(200))
    await made.close()


async def test_the_end_of_a_directory_is_told_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has asked for many parts at once takes the first end for the end (sshfs does so)."""
    for number in range(2000):
        (tmp_path / str(number)).touch()
    pipe, made = Pipe(), SftpServer(str(tmp_path))
    task = asyncio.create_task(made.serve(pipe))
    pipe.requests.put_nowait(ask(sftp.OPENDIR, 9, sftp.pack_string(b"/")))
    await until(pipe.packets)
    handle = sftp.pack_string(pipe.packets()[0][2].string())
    pipe.answers.clear()
    answer, late = made._calls.answer, [0.05, 0.03, 0.01]

    def slow_at_first(packet: bytes) -> bytes:
        if late:
            time.sleep(late.pop(0))
        return answer(packet)

    monkeypatch.setattr(made._calls, "answer", slow_at_first)
    for number in range(100):
        pipe.requests.put_nowait(ask(sftp.READDIR, number, handle))
    pipe.requests.put_nowait(b"")
    async with asyncio.timeout(20):
        await task
    found = [(number, kind) for kind, number, _ in pipe.packets()]
    assert [number for number, _ in found] == list(range(100))
    kinds = [kind for _, kind in found]
    assert kinds == sorted(kinds, key=lambda kind: kind != sftp.NAME)
    assert 2 < kinds.count(sftp.NAME) < 100
    await made.close()


async def test_a_slow_read_holds_up_no_other_but_what_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x" * JOB_BYTES)
    pipe, made = Pipe(), SftpServer(str(tmp_path))
    task = asyncio.create_task(made.serve(pipe))
    handle = await open_file(pipe, b"/f", sftp.OPEN_READ)
    go_on, real = threading.Event(), os.pread

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        assert go_on.wait(10)
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    remove = ask(sftp.REMOVE, 3, sftp.pack_string(b"/f"))
    stat_after = ask(sftp.STAT, 4, sftp.pack_string(b"/f"))
    read = ask(sftp.READ, 1, handle, struct.pack(">QI", 0, JOB_BYTES))
    pipe.requests.put_nowait(read + ask(sftp.STAT, 2, sftp.pack_string(b"/f")) + remove + stat_after)
    await until(pipe.packets)
    await asyncio.sleep(0.05)
    assert [(kind, number) for kind, number, _ in pipe.packets()] == [(sftp.ATTRS, 2)]
    assert (tmp_path / "f").exists()
    go_on.set()
    await until(lambda: len(pipe.packets()) == 4)
    assert [(kind, number) for kind, number, _ in pipe.packets()][1:] == [
        (sftp.DATA, 1), (sftp.STATUS, 3), (sftp.STATUS, 4),
    ]  # fmt: skip
    pipe.requests.put_nowait(b"")
    await task
    await made.close()


async def test_a_lost_client_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    before = len(os.listdir("/proc/self/fd"))
    pipe, made = Pipe(), SftpServer(str(tmp_path))
    task = asyncio.create_task(made.serve(pipe))
    await open_file(pipe, b"/f", sftp.OPEN_READ)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await made.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_over_a_session(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    stream, _ = await request(session, {"op": "sftp", "root": str(tmp_path), "read_only": True})
    stream.write(sftp.packet(sftp.INIT, struct.pack(">I", 3)))
    stream.write(ask(sftp.STAT, 5, sftp.pack_string(b"/f")))
    stream.write(ask(sftp.REMOVE, 6, sftp.pack_string(b"/f")))
    splitter, found = PacketSplitter(), []
    while len(found) < 3:
        found += splitter.feed(await stream.read())
    assert [packet[0] for packet in found] == [sftp.VERSION, sftp.ATTRS, sftp.STATUS]
    reader = Reader(found[1])
    reader.u8(), reader.u32()
    assert reader.attrs() == Attrs.of((tmp_path / "f").stat())
    stream.write_eof()
    assert await stream.read() == b""


async def test_what_is_no_sftp_resets_the_stream(session: Session, tmp_path: Path) -> None:
    stream, _ = await request(session, {"op": "sftp", "root": str(tmp_path)})
    stream.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await stream.read()


async def test_a_root_that_is_not_there(session: Session, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No such file") as caught:
        await request(session, {"op": "sftp", "root": str(tmp_path / "no")})
    assert getattr(caught.value, "kind", None) == "not-found"
