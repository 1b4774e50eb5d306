"""Connections that break in the middle of what is being done, servers that stop, and processes that are killed."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from telemount import mounts
from tests.telemount.conftest import Agent, Mount, Proxy, free_port

pytestmark = pytest.mark.root

Mounter = Callable[..., Path]


def test_cut_in_the_middle_of_a_read(root: Path, proxy: Proxy, mount: Mounter) -> None:
    data = os.urandom(30 << 20)
    (root / "f").write_bytes(data)
    there = mount(proxy.port)
    for after in (3_000_000, 777_777, 12_000_001):
        proxy.after["down"] = after
        before = proxy.accepted
        assert (there / "f").read_bytes() == data
        assert proxy.accepted == before + 1


def test_cut_in_the_middle_of_a_write(root: Path, proxy: Proxy, mount: Mounter) -> None:
    there = mount(proxy.port)
    for after in (3_000_000, 777_777, 12_000_001):
        data = os.urandom(20 << 20)
        proxy.after["up"] = after
        before = proxy.accepted
        (there / "f").write_bytes(data)
        assert (root / "f").read_bytes() == data
        assert proxy.accepted == before + 1


def test_appending_is_never_done_twice(root: Path, proxy: Proxy, mount: Mounter) -> None:
    there = mount(proxy.port)
    with open(there / "log", "ab", buffering=0) as file:
        file.write(b"first\n")
        os.fsync(file.fileno())
        proxy.after["down"] = 1  # the next write is done, its answer never comes
        file.write(b"second\n")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.fsync(file.fileno())
        file.write(b"third\n")
        os.fsync(file.fileno())
    assert (root / "log").read_bytes() == b"first\nsecond\nthird\n"


def test_what_was_done_before_the_answer_was_lost(root: Path, proxy: Proxy, mount: Mounter) -> None:
    there = mount(proxy.port, cache=0)

    def lose_the_next(call: Callable[[], object]) -> None:
        # Looking the name up is answered, what follows is done and its answer lost.
        thread = threading.Thread(target=call)
        proxy.after["down"] = 60
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    lose_the_next(lambda: os.mkdir(there / "d"))
    assert (root / "d").is_dir()
    lose_the_next(lambda: os.rmdir(there / "d"))
    assert not (root / "d").exists()
    (root / "f").touch()
    lose_the_next(lambda: os.rename(there / "f", there / "g"))
    assert os.listdir(root) == ["g"]
    lose_the_next(lambda: os.unlink(there / "g"))
    assert os.listdir(root) == []
    proxy.after.clear()
    assert os.listdir(there) == []


def test_open_files_live_on(root: Path, proxy: Proxy, mount: Mounter) -> None:
    (root / "f").write_bytes(b"0123456789" * 100_000)
    there = mount(proxy.port)
    with open(there / "f", "r+b", buffering=0) as file, open(there / "f", "rb", buffering=0) as reader:
        os.rename(there / "f", there / "renamed")
        proxy.cut()
        time.sleep(0.2)
        assert os.pread(reader.fileno(), 10, 500_000) == b"0123456789"
        os.pwrite(file.fileno(), b"X", 500_000)
        proxy.cut()
        os.fsync(file.fileno())
    assert (root / "renamed").read_bytes()[500_000:500_002] == b"X1"


def test_a_short_break_is_not_noticed(root: Path, proxy: Proxy, mount: Mounter) -> None:
    (root / "f").write_text("content")
    there = mount(proxy.port)
    proxy.down = True
    proxy.cut()
    threading.Timer(2.0, lambda: setattr(proxy, "down", False)).start()
    began = time.monotonic()
    assert (there / "f").read_text() == "content"
    assert 1.5 < time.monotonic() - began < 10


def test_a_long_break_is_an_error_and_then_over(root: Path, proxy: Proxy, mount: Mounter) -> None:
    (root / "f").write_text("content")
    there = mount(proxy.port)
    proxy.down = True
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (there / "f").read_text()
    assert 10 < time.monotonic() - began < 20
    began = time.monotonic()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.listdir(there)
    assert time.monotonic() - began < 4
    proxy.down = False
    deadline = time.monotonic() + 10
    while True:
        try:
            assert (there / "f").read_text() == "content"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_unmounting_waits_for_nobody(root: Path, agent: Agent, tmp_path: Path) -> None:
    (root / "f").write_text("content")
    made = Mount(tmp_path / "mount", agent.port)
    agent.pause(paused=True)
    try:
        failures: list[BaseException] = []

        def read() -> None:
            try:
                (made.path / "f").read_text()
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        mounts.detach(str(made.path))
        assert time.monotonic() - began < 5  # the reader would wait for longer
        assert str(made.path) not in mounts.mounted()
        made.process.kill()
        thread.join(10)
        assert len(failures) == 1
    finally:
        agent.pause(paused=False)
        made.close()


def test_a_dead_mount_is_mounted_over(root: Path, agent: Agent, tmp_path: Path) -> None:
    (root / "f").write_text("content")
    dead = Mount(tmp_path / "mount", agent.port)
    dead.process.kill()
    dead.process.wait()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.listdir(tmp_path / "mount")
    alive = Mount(dead.path, agent.port, wait=False, make=False)
    try:
        assert alive.answer == "ready"
        assert (dead.path / "f").read_text() == "content"
    finally:
        alive.close()
        dead.close()
    assert str(dead.path) not in mounts.mounted()


def test_mounted_before_the_server_is_there(root: Path, tmp_path: Path) -> None:
    port = free_port()
    made = Mount(tmp_path / "mount", port, wait=False)
    try:
        assert made.answer == "ready"
        server = Agent(root, port=port)
        try:
            (root / "f").write_text("content")
            assert (made.path / "f").read_text() == "content"
        finally:
            server.close()
    finally:
        made.close()


def test_the_process_ends_when_nobody_uses_it(root: Path, agent: Agent, tmp_path: Path) -> None:
    (root / "f").write_text("content")
    made = Mount(tmp_path / "mount", agent.port)
    try:
        with open(made.path / "f") as file:
            mounts.detach(str(made.path))
            time.sleep(0.5)
            assert made.process.poll() is None
            assert file.read() == "content"
        assert made.process.wait(5) == 0
    finally:
        made.close()
