"""What the user reads when the daemon is not there, is not a daemon, or refuses."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from teleroute import daemonclient
from teleroute.daemonclient import DaemonClient
from teleroute.options import Network, Subnet
from telewire.errors import Forbidden, NotFound, TeleError, Unavailable

ID, ENDPOINT = "a" * 64, "b" * 64


class Server:
    """An HTTP server that answers always the same, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: object = {}
        self.asked: list[tuple[str, str, str, Any]] = []
        self.port = 0

    async def serve(self, request: web.Request) -> web.Response:
        """Answer."""
        raw = await request.text()
        body = json.loads(raw) if raw else None
        self.asked.append((request.method, request.path, request.headers["Authorization"], body))
        text = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(status=self.status, text=text)

    @property
    def network(self) -> Network:
        """A network whose daemon this is."""
        return network_at(f"127.0.0.1:{self.port}")


def network_at(daemon: str) -> Network:
    """Return a network of a daemon."""
    return Network(ID, daemon, "secret", "none", 1400, (Subnet("10.81.0.0/24", "10.81.0.1/24"),))


@pytest.fixture
async def client() -> AsyncIterator[DaemonClient]:
    """The client."""
    made = DaemonClient()
    yield made
    await made.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server in the daemon's place."""
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def one_line(error: BaseException) -> str:
    """Return an error's text, which is one line without the token."""
    assert len(str(error).splitlines()) == 1
    assert "secret" not in str(error)
    return str(error)


async def test_the_calls_are_those_of_the_control_api(client: DaemonClient, server: Server) -> None:
    server.answer = {"netns": 4026531840, "routes": ["10.96.0.0/12"]}
    assert await client.put_network(server.network) == (4026531840, ["10.96.0.0/12"])
    assert await client.put_endpoint(server.network, ENDPOINT, "te1", ["10.81.0.2/24"]) == ["10.96.0.0/12"]
    server.answer = ""
    await client.delete_endpoint(server.network, ENDPOINT)
    await client.delete_network(server.network)
    body = {"subnets": [{"pool": "10.81.0.0/24", "gateway": "10.81.0.1/24"}], "mtu": 1400}
    assert server.asked == [
        ("PUT", f"/v1/networks/{ID}", "Bearer secret", body),
        ("PUT", f"/v1/networks/{ID}/endpoints/{ENDPOINT}", "Bearer secret", {"interface": "te1", "addresses": ["10.81.0.2/24"]}),
        ("DELETE", f"/v1/networks/{ID}/endpoints/{ENDPOINT}", "Bearer secret", None),
        ("DELETE", f"/v1/networks/{ID}", "Bearer secret", None),
    ]  # fmt: skip


async def test_a_daemon_that_is_gone(client: DaemonClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    with pytest.raises(Unavailable) as found:
        await client.put_network(network_at(f"127.0.0.1:{port}"))
    assert one_line(found.value) == (
        f"no Telepresence daemon answers at 127.0.0.1:{port} (Connection refused): "
        "`telepresence connect --docker` starts it anew; check the option daemon"
    )


async def test_a_daemon_that_is_silent(client: DaemonClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemonclient, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Unavailable) as found:
            await client.delete_network(network_at(f"127.0.0.1:{port}"))
    assert one_line(found.value).startswith(f"no Telepresence daemon answers at 127.0.0.1:{port} (no answer in time): ")


async def test_a_daemon_that_hangs_up(client: DaemonClient) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unavailable, match="no Telepresence daemon answers") as found:
            await client.put_network(network_at(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    one_line(found.value)


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (200, "<html>Welcome</html>", "HTTP 200"),
        (404, "404 page not found\n", "HTTP 404"),
        (200, [], "HTTP 200"),
        (200, {}, "its answer lacks netns or routes"),
        (200, {"netns": None, "routes": []}, "its answer lacks netns or routes"),
        (200, {"netns": 1, "routes": None}, "its answer lacks netns or routes"),
    ],
)
async def test_something_that_is_no_daemon(
    client: DaemonClient, server: Server, status: int, answer: object, why: str
) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(Unavailable) as found:
        await client.put_network(server.network)
    assert one_line(found.value) == (
        f"what answers at 127.0.0.1:{server.port} is no Telepresence daemon ({why}); check the option daemon"
    )


async def test_a_wrong_token(client: DaemonClient, server: Server) -> None:
    server.status, server.answer = 401, {"error": "wrong or no token", "code": "unauthorized"}
    with pytest.raises(Forbidden) as found:
        await client.put_network(server.network)
    assert one_line(found.value) == f"the daemon at 127.0.0.1:{server.port} refuses the token; check the option token"


@pytest.mark.parametrize(("status", "kind"), [(400, TeleError), (403, Forbidden), (404, NotFound), (503, TeleError)])
async def test_what_the_daemon_says_is_passed_on(
    client: DaemonClient, server: Server, status: int, kind: type[TeleError]
) -> None:
    server.status, server.answer = status, {"error": "the gateway 10.0.0.1 is not in its pool", "code": "x"}
    with pytest.raises(TeleError) as found:
        await client.put_endpoint(server.network, ENDPOINT, "te1", [])
    assert type(found.value) is kind
    assert one_line(found.value) == (
        f"the daemon at 127.0.0.1:{server.port} refuses: the gateway 10.0.0.1 is not in its pool"
    )


async def test_a_refusal_without_a_reason(client: DaemonClient, server: Server) -> None:
    server.status, server.answer = 500, {}
    with pytest.raises(TeleError, match="refuses: HTTP status 500"):
        await client.delete_endpoint(server.network, ENDPOINT)


async def test_no_proxy_comes_between(client: DaemonClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    await client.delete_network(server.network)
    assert len(server.asked) == 1


async def test_closing_without_a_call() -> None:
    await DaemonClient().close()
