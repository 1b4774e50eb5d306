"""Credentials are renewed before they expire and when the API server refuses them; the process ends with the daemon."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator import credentials
from orchestrator.control import Control, NoAnswerError, UnauthorizedError
from orchestrator.execplugin import Credentials
from telewire.errors import Forbidden


class Script(Control):
    """A control API that answers from a list; an answer that is an exception is raised."""

    def __init__(self, *answers: object) -> None:
        super().__init__(1, "t", "here")
        self.answers, self.put = list(answers), []

    def call(self, method: str, path: str, body: object | None = None, timeout: float = 30.0) -> dict[str, object]:
        if method == "PUT":
            self.put.append(body)
            return {}
        assert path.startswith("/v1/credentials?wait=")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(credentials.time, "sleep", slept.append)
    return slept


def test_renewed_when_the_api_server_refuses() -> None:
    control = Script({"wanted": False}, {"wanted": True}, UnauthorizedError("another daemon"))
    credentials.keep(control, lambda: Credentials(token="new"), Credentials(expires=at(3600)))
    assert control.put == [{"token": "new"}]


def test_renewed_before_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.time()
    clock = iter([start, start, start, start + 3000, start + 3000, start + 3545, *[start + 3546] * 20])
    monkeypatch.setattr(credentials.time, "time", lambda: next(clock))
    control = Script({"wanted": False}, {"wanted": False}, {"wanted": False}, UnauthorizedError("gone"))
    credentials.keep(control, lambda: Credentials(token="new", expires=at(7200)), Credentials(expires=at(3600)))
    assert [sent["token"] for sent in control.put] == ["new"]


def test_a_plugin_that_fails_is_asked_again_later(no_sleep: list[float]) -> None:
    answers = iter([Forbidden("log in"), Forbidden("log in"), None])

    def fetch() -> Credentials:
        failure = next(answers)
        if failure:
            raise failure
        return Credentials(token="new")

    control = Script({"wanted": True}, {"wanted": True}, {"wanted": True}, UnauthorizedError("gone"))
    credentials.keep(control, fetch, Credentials())
    assert control.put == [{"token": "new"}]
    assert no_sleep[:2] == [5.0, 10.0]


def test_unchanged_credentials_are_not_sent() -> None:
    control = Script({"wanted": True}, {"wanted": False}, UnauthorizedError("gone"))
    credentials.keep(control, lambda: Credentials(token="same"), Credentials())
    assert control.put == [{"token": "same"}]


def test_ends_when_nobody_answers_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 11.0])
    monkeypatch.setattr(credentials.time, "monotonic", lambda: next(clock))
    control = Script(*[NoAnswerError("gone")] * 9)
    credentials.keep(control, lambda: Credentials(), Credentials())
    assert len(control.answers) == 6
