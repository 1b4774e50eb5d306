from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from telewire.errors import Forbidden
from telewire.messages import request
from tests.teleagent.conftest import free_port, open_session
from tests.teleagent.pod import TOKEN

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def running(*arguments: str, **options: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give an agent in a process of its own that listens, and its port."""
    port = free_port()
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "teleagent", "--port", str(port), *arguments],
        env=environment, stderr=subprocess.PIPE, text=True, cwd="/", **options,
    )  # type: ignore[call-overload]  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield child, port
    finally:
        child.kill()
        child.communicate()


def start(code: str, port: int) -> subprocess.Popen[bytes]:
    """Run ``code``, which runs an agent on ``port``."""
    return subprocess.Popen(
        [sys.executable, "-c", code, "--port", str(port)], env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )


def test_sigterm_ends_it_at_once() -> None:
    with running() as (child, _):
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == 0


async def test_sigterm_ends_it_although_a_file_call_hangs() -> None:
    code = """if True:
        import os, sys, time
        real = os.statvfs
        os.statvfs = lambda path: time.sleep(3600) if path == "/hang" else real(path)
        os.stat, stat = (lambda path, **k: stat("/" if path == "/hang" else path, **k)), os.stat
        sys.argv[0] = "teleagent"
        from teleagent.__main__ import main
        main()
    """
    port = free_port()
    child = start(code, port)
    try:
        session = None
        async with asyncio.timeout(20):
            while session is None:
                try:
                    session = await open_session(port)
                except OSError:
                    await asyncio.sleep(0.05)
        hanging = asyncio.create_task(request(session, {"op": "mounts", "paths": ["/hang"]}))
        _, answer = await request(session, {"op": "mounts", "paths": ["/"]})
        assert answer["mounts"][0]["exists"]
        assert not hanging.done()
        child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, 5) == 0
        session.close()
        with pytest.raises(Exception, match="went away"):
            await hanging
    finally:
        child.kill()
        child.communicate()


async def test_shutdown_message() -> None:
    with running() as (child, port):
        session = await open_session(port)
        _, answer = await request(session, {"op": "shutdown"})
        assert answer == {"ok": True}
        assert await asyncio.to_thread(child.wait, 5) == 0
        session.close()
        await asyncio.sleep(0.01)


async def test_only_the_token_of_the_digest_is_taken() -> None:
    with running("--token-sha256", hashlib.sha256(TOKEN.encode()).hexdigest()) as (_, port):
        session = await open_session(port)
        session.close()
    with running("--token-sha256", hashlib.sha256(b"another").hexdigest()) as (_, port):
        for _ in range(2):
            with pytest.raises(Forbidden, match="token"):
                await open_session(port)


async def test_it_ends_when_nobody_was_there() -> None:
    with running("--exit-when-idle", "1.5") as (child, port):
        session = await open_session(port)
        await asyncio.sleep(2.6)
        assert child.poll() is None, "not while there is a link"
        session.close()
        started = time.monotonic()
        assert await asyncio.to_thread(child.wait, 10) == 0
        assert time.monotonic() - started > 0.4
    with running("--exit-when-idle=0.5") as (child, _):
        assert await asyncio.to_thread(child.wait, 10) == 0


def test_a_replaced_containers_arguments_do_not_matter() -> None:
    with running("--port", "1", "serve", "--verbose") as (child, _):
        assert child.poll() is None


def test_mistakes_are_one_line() -> None:
    def line(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "teleagent", *arguments],
            env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, timeout=20, check=False,
        )  # fmt: skip
        (only,) = done.stderr.splitlines()
        return done.returncode, only

    code, text = line("--port", "x")
    assert (code, "--port 'x'" in text) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, text = line("--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "cannot listen on port" in text
    assert "in use" in text


def test_it_is_small() -> None:
    with running() as (child, _):
        time.sleep(0.3)
        status = Path(f"/proc/{child.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 32 * 1024, f"{resident} kB"
        assert "Threads:\t1\n" in status


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, teleagent.process; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "teleagent" in loaded
    assert not loaded & {"aiohttp", "kubernetes", "docker", "dns", "yaml", "argparse", "pyroute2", "http", "email"}


def test_children_of_others_are_reaped() -> None:
    """As PID 1 of a container it inherits orphans; here as their subreaper."""
    code = """if True:
        import ctypes, subprocess, sys
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        from teleagent.__main__ import main
        subprocess.Popen(["sh", "-c", "sleep 0.7 & exit"]).wait()
        main()
    """
    port = free_port()
    child = start(code, port)
    try:

        def children() -> str:
            return Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()

        deadline = time.monotonic() + 10
        while not children():
            assert time.monotonic() < deadline, "the orphan was never seen"
            time.sleep(0.01)
        while children():
            assert time.monotonic() < deadline, "a zombie is left"
            time.sleep(0.05)
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()
