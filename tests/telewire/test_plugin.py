from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from telewire import plugin
from telewire.errors import Conflict
from telewire.plugin import CONTENT_TYPE, MAX_BODY, application, bind_socket

ACTIVATE = (
    b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n"
    b"Accept: application/vnd.docker.plugins.v1.2+json\r\nAccept-Encoding: gzip\r\n\r\n"
)


async def echo(body: dict[str, Any]) -> dict[str, Any]:
    return {"Got": body}


async def busy(_body: dict[str, Any]) -> dict[str, Any]:
    raise Conflict("the pool overlaps with 10.0.0.0/8; choose another with --vnat")


async def broken(_body: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("two\nlines")


async def slow(_body: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(60)
    return {}


METHODS = {
    "VolumeDriver.Create": echo,
    "VolumeDriver.List": echo,
    "VolumeDriver.Mount": busy,
    "VolumeDriver.Remove": broken,
    "VolumeDriver.Unmount": slow,
}


class Connection:
    """A connection to the plugin on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def raw(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        """Send a request as it stands; return the status, the headers and the body."""
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await self.reader.readexactly(int(headers["content-length"])))
        return int(head[0].split()[1]), headers, body

    async def call(self, method: str, body: bytes = b"{}") -> tuple[int, Any]:
        """Call as dockerd does; return the status and the body."""
        head = f"POST /{method} HTTP/1.1\r\nHost: \r\nContent-Length: {len(body)}\r\n\r\n".encode()
        status, _, answer = await self.raw(head + body)
        return status, answer


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    sock = bind_socket(str(tmp_path / "plugin.sock"))
    runner = web.AppRunner(application(["VolumeDriver"], METHODS, {"VolumeDriver.Unmount": 0.05}))
    await runner.setup()
    await web.SockSite(runner, sock).start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "plugin.sock"))
    yield Connection(reader, writer)
    writer.close()
    await runner.cleanup()


async def test_activation_tells_what_is_implemented_in_dockers_content_type(connection: Connection) -> None:
    status, headers, body = await connection.raw(ACTIVATE)
    assert (status, body) == (200, {"Implements": ["VolumeDriver"]})
    assert headers["content-type"] == CONTENT_TYPE


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: \r\n",
        b"Host: %2Frun%2Fdocker%2Fplugins%2Ftelemount.sock\r\n",
        b"Host: plugin.moby.localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n",
        b"Host: x\r\nContent-Type: nonsense; charset=\xff\r\n",
        b"Host: x\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: keep-alive\r\n",
    ],
)
async def test_headers_do_not_matter(connection: Connection, headers: bytes) -> None:
    request = b"POST /VolumeDriver.Create HTTP/1.1\r\n" + headers + b'Content-Length: 12\r\n\r\n{"Name":"v"}'
    status, _, body = await connection.raw(request)
    assert (status, body) == (200, {"Got": {"Name": "v"}})


async def test_a_body_may_come_in_chunks(connection: Connection) -> None:
    head = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, body = await connection.raw(head + b'5\r\n{"Nam\r\n7\r\ne":"v"}\r\n0\r\n\r\n')
    assert (status, body) == (200, {"Got": {"Name": "v"}})


async def test_a_connection_serves_one_call_after_the_other(connection: Connection) -> None:
    for number in range(5):
        assert await connection.call("VolumeDriver.Create", b'{"N":%d}' % number) == (200, {"Got": {"N": number}})


async def test_a_deliberate_error_is_500_and_its_one_line(connection: Connection) -> None:
    status, body = await connection.call("VolumeDriver.Mount")
    assert (status, body) == (500, {"Err": "the pool overlaps with 10.0.0.0/8; choose another with --vnat"})


async def test_a_bug_is_500_and_one_line(connection: Connection) -> None:
    status, body = await connection.call("VolumeDriver.Remove")
    assert status == 500
    assert body["Err"].startswith("VolumeDriver.Remove failed: KeyError: ")
    assert "\n" not in body["Err"]


async def test_a_call_that_takes_too_long_is_500(connection: Connection) -> None:
    status, body = await connection.call("VolumeDriver.Unmount")
    assert (status, body) == (500, {"Err": "VolumeDriver.Unmount did not end within 0.05 s; see the engine's log"})
    assert (await connection.call("VolumeDriver.Create"))[0] == 200


async def test_a_method_that_there_is_not_is_404(connection: Connection) -> None:
    assert await connection.call("VolumeDriver.Nonsense") == (
        404,
        {"Err": "VolumeDriver.Nonsense is not implemented"},
    )


@pytest.mark.parametrize(
    ("body", "complaint"),
    [(b"", "no body"), (b" \n", "no body"), (b"{", "no JSON"), (b"[]", "no JSON object"), (b"[" * 200_000, "no JSON")],
)
async def test_a_body_that_says_nothing_is_400(connection: Connection, body: bytes, complaint: str) -> None:
    status, answer = await connection.call("VolumeDriver.Create", body)
    assert status == 400
    assert complaint in answer["Err"]


@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
async def test_a_call_that_needs_no_body_takes_none(connection: Connection, body: bytes) -> None:
    assert await connection.call("VolumeDriver.List", body) == (200, {"Got": {}})


async def test_a_body_that_is_too_long_is_413(connection: Connection) -> None:
    status, answer = await connection.call("VolumeDriver.Create", b" " * (MAX_BODY + 1))
    assert status == 413
    assert "longer than" in answer["Err"]


def test_the_socket_takes_the_place_of_a_stale_one_and_is_roots_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "as needed" / "plugin.sock"
    for _ in range(2):
        with bind_socket(str(path)) as sock, socket.socket(socket.AF_UNIX) as dialled:
            dialled.connect(str(path))
            assert sock.getsockname() == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


PROGRAM = """
import sys
from telewire.plugin import bind_socket
sock = bind_socket(sys.argv[1])
print(*sorted(name for name in ("aiohttp", "pyroute2", "mfusepy") if name in sys.modules), flush=True)
import asyncio
from telewire.plugin import serve_plugin
async def get(body):
    await asyncio.sleep(body.get("Seconds", 0))
    return {"Got": body}
asyncio.run(serve_plugin(sock, ["VolumeDriver"], {"VolumeDriver.Get": get}, {"VolumeDriver.Get": 20}))
"""


class Process:
    """A plugin in a process of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.heavy_modules = self.process.stdout.readline().split()
        self.bound_after = time.monotonic() - began
        self._connections: list[Connection] = []

    async def connect(self) -> Connection:
        self._connections.append(Connection(*await asyncio.open_unix_connection(str(self.path))))
        return self._connections[-1]

    async def ended(self) -> int:
        for connection in self._connections:
            connection.writer.close()
        return await asyncio.to_thread(self.process.wait, 20)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path / "plugin.sock")
    yield made
    made.process.kill()
    await made.ended()
    assert made.process.stdout is not None
    made.process.stdout.close()


async def test_the_socket_is_bound_before_anything_heavy_is_imported(
    process: Process, record_property: pytest.RecordProperty
) -> None:
    record_property("bound_after_seconds", process.bound_after)
    assert process.heavy_modules == []
    assert process.bound_after < 10, "dockerd dials 0.5 s after the start; this bound is for a busy machine"
    connection = await process.connect()
    assert (await connection.raw(ACTIVATE))[0] == 200, "who dials before the server runs is kept waiting, not refused"


async def test_a_signal_lets_calls_in_flight_end_and_removes_the_socket(process: Process) -> None:
    connection = await process.connect()
    call = asyncio.create_task(connection.call("VolumeDriver.Get", b'{"Seconds": 0.3}'))
    await asyncio.sleep(0)
    assert (await (await process.connect()).raw(ACTIVATE))[0] == 200
    process.process.send_signal(signal.SIGTERM)
    assert await call == (200, {"Got": {"Seconds": 0.3}})
    assert await process.ended() == 0
    assert not os.path.exists(process.path)


async def test_a_second_signal_ends_at_once(process: Process) -> None:
    connection = await process.connect()
    connection.writer.write(b'POST /VolumeDriver.Get HTTP/1.1\r\nHost: \r\nContent-Length: 14\r\n\r\n{"Seconds":60}')
    assert (await (await process.connect()).raw(ACTIVATE))[0] == 200
    process.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(ConnectionRefusedError):  # until it has seen the first one
        while True:
            await process.connect()
            await asyncio.sleep(0.02)
    process.process.send_signal(signal.SIGTERM)
    assert await process.ended() == 1


def test_the_server_keeps_idle_connections_longer_than_dockerd() -> None:
    assert plugin.KEEP_ALIVE > 30


async def test_the_log_does_not_show_tokens(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    options = {"Token": 'se"cret', "daemon": "127.0.0.1:1"}
    with caplog.at_level("DEBUG", logger="telewire.plugin"):
        assert await connection.call(
            "VolumeDriver.Create", json.dumps({"Opts": {"token": "secret", **options}}).encode()
        )
    (line,) = [record.getMessage() for record in caplog.records if "VolumeDriver.Create" in record.getMessage()]
    request, _ = line.split(" -> ")
    assert "cret" not in request
    assert "127.0.0.1:1" in request
