from __future__ import annotations

import errno
import random
import struct

import pytest

from telemount.readahead import Budget, Readahead
from telemount.request import Request
from telewire import sftp

CHUNK = 100


class Server:
    """Answers at once; remembers what was asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self.fail = False

    def submit(self, offset: int, size: int) -> Request:
        self.asked.append((offset, size))
        request = Request(sftp.READ, b"")
        part = self.data[offset : offset + size]
        if self.fail:
            request.finish(b"", errno.EIO)
        elif part:
            request.finish(sftp.request(sftp.DATA, 1, sftp.pack_string(part))[4:])
        else:
            request.finish(sftp.request(sftp.STATUS, 1, struct.pack(">I", sftp.EOF))[4:])
        return request


def read(ahead: Readahead, server: Server, offset: int, size: int) -> bytes:
    target = bytearray(size)
    return bytes(target[: ahead.read(offset, memoryview(target), len(server.data))])


def test_reading_in_order_asks_for_more_and_more_and_for_nothing_twice() -> None:
    server = Server(bytes(range(256)) * 40)
    ahead = Readahead(server.submit, CHUNK, Budget())
    assert read(ahead, server, 0, 50) == server.data[:50]
    assert server.asked == [(0, 100), (100, 100)]
    got = server.data[:50]
    while len(got) < len(server.data):
        got += read(ahead, server, len(got), 50)
    assert got == server.data
    assert server.asked == [(offset, 100) for offset in range(0, len(server.data), 100)]


def test_reading_here_and_there_asks_for_just_that() -> None:
    server = Server(random.Random(1).randbytes(100_000))
    ahead = Readahead(server.submit, CHUNK, Budget())
    for offset in (50_000, 20_000, 70_007, 99_990):
        assert read(ahead, server, offset, 50) == server.data[offset : offset + 50]
    assert server.asked == [(50_000, 50), (20_000, 50), (70_007, 50), (99_990, 50)]


def test_anything_is_exact() -> None:
    chance = random.Random(7)
    server = Server(chance.randbytes(3_333))
    ahead = Readahead(server.submit, CHUNK, Budget(2_000))
    position = 0
    for _ in range(3_000):
        if chance.random() < 0.2:
            position = chance.randrange(3_500)
        size = chance.randrange(1, 400)
        assert read(ahead, server, position, size) == server.data[position : position + size]
        position += size


def test_a_file_that_grows_or_changes() -> None:
    server = Server(b"x" * 150)
    ahead = Readahead(server.submit, CHUNK, Budget())
    assert read(ahead, server, 0, 200) == b"x" * 150
    server.data += b"y" * 100
    assert read(ahead, server, 150, 200) == b"y" * 100
    server.data = b"z" * 250
    ahead.forget()
    assert read(ahead, server, 100, 100) == b"z" * 100


def test_all_files_together_are_bounded() -> None:
    server = Server(bytes(1_000_000))
    budget = Budget(1_000)
    files = [Readahead(server.submit, CHUNK, budget) for _ in range(5)]
    for offset in range(0, 5_000, 100):
        for ahead in files:
            read(ahead, server, offset, 100)
    assert max(offset for offset, _ in server.asked) <= 5_000 + 1_000
    for ahead in files:
        ahead.forget()
    assert budget.take(1_000)
    assert not budget.take(1)


def test_after_an_error_it_asks_again() -> None:
    server = Server(b"x" * 1_000)
    ahead = Readahead(server.submit, CHUNK, Budget())
    server.fail = True
    with pytest.raises(OSError, match="Input/output"):
        read(ahead, server, 0, 100)
    server.fail = False
    assert read(ahead, server, 0, 100) == b"x" * 100
