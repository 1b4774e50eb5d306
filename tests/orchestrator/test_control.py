"""The control API's client: what it sends, and errors as the contract names them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.control import Control, NoAnswerError, UnauthorizedError
from telewire.errors import BadRequest, Conflict, NotFound, TeleError


class Answers(ThreadingHTTPServer):
    """Answers each request with the next of ``answers``; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, object]] = []
        self.asked: list[tuple[str, str, str | None, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(
            (self.command, self.path, self.headers.get("Authorization"), json.loads(body) if body else None)
        )
        status, answer = self.server.answers.pop(0)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Answers]:
    made = Answers()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def control(server: Answers) -> Control:
    return Control(server.server_port, "token", "here")


def test_calls_carry_the_token_and_the_body(server: Answers, control: Control) -> None:
    server.answers = [(200, {"engagements": []}), (200, {"id": "1"}), (200, {}), (200, {})]
    assert control.engagements() == []
    assert control.handler("1", "10.0.0.2", "abc") == {"id": "1"}
    control.disengage("1")
    control.quit()
    assert server.asked == [
        ("GET", "/v1/engagements", "Bearer token", None),
        ("PUT", "/v1/engagements/1/handler", "Bearer token", {"address": "10.0.0.2", "container": "abc"}),
        ("DELETE", "/v1/engagements/1", "Bearer token", None),
        ("POST", "/v1/quit", "Bearer token", {}),
    ]


def test_waits_as_long_as_the_engagement_does(server: Answers, control: Control) -> None:
    server.answers = [(200, {"state": "waiting"}), (200, {"state": "waiting"}), (200, {"state": "active"})]
    assert control.until_active("1")["state"] == "active"
    assert [path for _, path, _, _ in server.asked] == ["/v1/engagements/1?wait=30"] * 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not-found", NotFound),
        ("conflict", Conflict),
        ("unauthorized", UnauthorizedError),
        ("not-connected", TeleError),
    ],
)
def test_refusals_keep_their_kind(server: Answers, control: Control, code: str, kind: type[TeleError]) -> None:
    server.answers = [(418, {"error": "no\nreally", "code": code})]
    with pytest.raises(kind, match="no really") as error:
        control.status()
    assert error.value.code == (kind.code if code == "unauthorized" else code)


def test_nearest_names_and_containers_are_told_once(server: Answers, control: Control) -> None:
    server.answers = [
        (404, {"error": "no workload x", "code": "not-found", "nearest": ["y", "z"]}),
        (404, {"error": "no workload x, perhaps y or z", "code": "not-found", "nearest": ["y", "z"]}),
        (400, {"error": "several containers", "code": "bad-request", "containers": ["a", "b"]}),
    ]
    with pytest.raises(NotFound, match=r"^no workload x; the nearest names are y, z$"):
        control.engage({})
    with pytest.raises(NotFound, match=r"^no workload x, perhaps y or z$"):
        control.engage({})
    with pytest.raises(BadRequest, match="choose one with --container: a, b"):
        control.engage({})


def test_an_answer_that_is_no_json(server: Answers, control: Control) -> None:
    server.answers = [(500, b"Server got itself in trouble")]
    with pytest.raises(TeleError, match="got itself in trouble"):
        control.status()


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NoAnswerError, match=f"connection here does not answer at 127.0.0.1:{port}.*telepresence quit"):
        Control(port, "t", "here").status()


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NoAnswerError, match="within 0 s"):
        Control(silent.getsockname()[1], "t", "here").status(timeout=0.1)
