"""The daemon as a process in a namespace of its own, with the engine's host beside it."""

from __future__ import annotations

import json
import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from telewire import names
from tests.teledaemon.netns import Namespace, socket_in

TOKEN = "0123456789abcdef0123"
DAEMON, HOST, NEIGHBOUR = "172.17.0.2", "172.17.0.1", "172.17.0.3"


class Answer(NamedTuple):
    """Status and JSON body."""

    status: int
    body: Any


class World:
    """The daemon; the engine's host, which also plays a container beside the daemon; a handler, on no network yet."""

    def __init__(self) -> None:
        self.daemon, self.host, self.handler = Namespace(), Namespace(), Namespace()
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        self.daemon.link("eth0", self.host, "docker0")
        self.daemon.address("eth0", f"{DAEMON}/16")
        self.host.address("docker0", f"{HOST}/16", f"{NEIGHBOUR}/16")
        self.daemon.run("ip", "route", "add", "default", "via", HOST)
        self.process = self.daemon.start("-m", "teledaemon", TELEPRESENCE_TOKEN=TOKEN)
        deadline = time.monotonic() + 20
        while not self.daemon.run("ss", "-Htln", "sport = :4038").stdout:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.05)

    def socket(
        self, port: int, source: str = HOST, where: Namespace | None = None, target: str = DAEMON
    ) -> socket.socket:
        """Return a connection to the daemon."""
        sock = socket_in((where or self.host).pid)
        sock.settimeout(10)
        sock.bind((source, 0))
        sock.connect((target, port))
        return sock

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        source: str = HOST,
        **where: Any,
    ) -> Answer:
        """Make one call as the host, or from another address. ``body`` may be bytes."""
        connection = HTTPConnection(DAEMON)
        connection.sock = self.socket(names.CONTROL_PORT, source, **where)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, headers)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    def refused(self, method: str, path: str, body: object = None, **more: Any) -> str:
        """Make a call that fails; return the code of the error, which is one line."""
        answer = self.call(method, path, body, **more)
        assert answer.status >= 400
        assert "\n" not in answer.body["error"]
        assert len(answer.body["error"]) > 10
        return str(answer.body["code"])

    def is_stranger(self, **where: Any) -> bool:
        """Whether the daemon has nothing for a peer with the right token but a refusal."""
        try:
            return self.refused("GET", "/v1/status", **where) == "forbidden"
        except (OSError, HTTPException):
            return True

    def close(self) -> None:
        for namespace in (self.daemon, self.host, self.handler):
            namespace.close()
