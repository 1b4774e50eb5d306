"""An API server that answers what a test has put there, and a cluster connected to it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from teledaemon.kube import Cluster

Object = dict[str, Any]
Answer = tuple[int, object]


class ApiServer:
    """Answers ``METHOD /path`` with what ``answers`` holds (a function gets the request), 403 else; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[web.Request], Any]] = {}
        self.asked: list[tuple[str, dict[str, str], Any, dict[str, str]]] = []
        self.port = 0

    def put(self, where: str, *items: Object, version: str = "7") -> None:
        """Have a list of ``items`` at ``GET where``."""
        self.answers[f"GET {where}"] = (200, {"metadata": {"resourceVersion": version}, "items": list(items)})

    def refuse(self, where: str, status: int, message: str) -> None:
        """Have a Status object at ``where``, which names the method too."""
        self.answers[where] = (status, {"kind": "Status", "message": message, "code": status})

    def paths(self) -> list[str]:
        """What was asked, in order."""
        return [where for where, _, _, _ in self.asked]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        where = f"{request.method} {request.raw_path.partition('?')[0]}"
        self.asked.append((where, dict(request.query), json.loads(raw) if raw else None, dict(request.headers)))
        answer = self.answers.get(where, (403, {"kind": "Status", "message": f"{where} is forbidden"}))
        if callable(answer):
            answer = await answer(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        status, body = answer
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)
        return web.json_response(body, status=status)


def document(port: int, **user: Any) -> Object:
    """A kubeconfig of one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "work", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "work",
    }


def free_port() -> int:
    """Return a port that neither TCP nor UDP uses on loopback, and that no outgoing connection is given (ip(7))."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind(("0.0.0.0", port))
            udp.bind(("0.0.0.0", port))
            return port


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    """An API server without any answer."""
    made = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    made.port = sock.getsockname()[1]
    await web.SockSite(runner, sock).start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def cluster(server: ApiServer) -> AsyncIterator[Cluster]:
    """A user with a token at that API server."""
    made = Cluster(document(server.port, token="first"))
    await made.open()
    yield made
    await made.close()
