"""Client of the daemon's control API, on the standard library alone so that it is quick to import."""

from __future__ import annotations

import http.client
import json
from typing import Any, cast

from orchestrator.model import Engagement, Status, Workload
from telewire.errors import BadRequest, Conflict, Forbidden, NotFound, TeleError, Unavailable

CONNECT_TIMEOUT = 240.0
"""Seconds that a connect may take: the cluster may have to pull the agent's image."""
ENGAGE_TIMEOUT = 240.0
"""Seconds that starting or ending an engagement may take: the template of a workload may have to roll out."""
WAIT = 30
"""Seconds for which the daemon is asked to hold an answer back that it does not have yet."""

_KINDS: dict[str, type[TeleError]] = {
    kind.code: kind for kind in (BadRequest, NotFound, Conflict, Forbidden, Unavailable)
}


class NoAnswerError(Unavailable):
    """The daemon does not answer at its control port, or broke off."""


class UnauthorizedError(Forbidden):
    """The daemon refused the token: another daemon answers at that port."""


class Control:
    """The control API of one daemon, one connection for each call.

    :param port: the port on which the engine publishes the daemon's control port on this machine
    :param token: the bearer token
    :param name: the connection's name, for messages
    """

    def __init__(self, port: int, token: str, name: str, host: str = "127.0.0.1") -> None:
        self.host, self.port, self.token, self.name = host, port, token, name

    def call(self, method: str, path: str, body: object | None = None, timeout: float = 30.0) -> dict[str, Any]:
        """Make one call and return its answer.

        :param timeout: seconds for each read or write
        :raises NoAnswerError: nothing answers, or not in time
        :raises TeleError: what the daemon refused, as the leaf that its ``code`` names
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token}"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            raw = response.read()
        except TimeoutError:
            raise NoAnswerError(
                f"the daemon of connection {self.name} did not answer {method} {path} within {timeout:.0f} s; "
                "see `telepresence status`"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(
                f"the daemon of connection {self.name} does not answer at {self.host}:{self.port} ({error or 'no data'}); "
                "`telepresence connect --docker` mends it, `telepresence quit` cleans up"
            ) from error
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = {"error": raw.decode(errors="replace").strip()[:200] or response.reason}
        if response.status >= 400:
            raise _refusal(response.status, answer if isinstance(answer, dict) else {})
        return cast("dict[str, Any]", answer)

    def status(self, timeout: float = 10.0) -> Status:
        """Return what the daemon says of itself."""
        return cast("Status", self.call("GET", "/v1/status", timeout=timeout))

    def connect(self, request: dict[str, object]) -> Status:
        """Have the daemon connect to the cluster (or only put back what was left there)."""
        return cast("Status", self.call("POST", "/v1/connect", request, CONNECT_TIMEOUT))

    def workloads(self) -> list[Workload]:
        """Return the workloads of the connected namespace."""
        return cast("list[Workload]", self.call("GET", "/v1/workloads")["workloads"])

    def engagements(self) -> list[Engagement]:
        """Return what is engaged through this connection."""
        return cast("list[Engagement]", self.call("GET", "/v1/engagements")["engagements"])

    def engage(self, request: dict[str, object]) -> Engagement:
        """Start an engagement; return it when its environment and mounts are known."""
        return cast("Engagement", self.call("POST", "/v1/engagements", request, ENGAGE_TIMEOUT))

    def until_active(self, engagement: str) -> Engagement:
        """Return the engagement with this ID when every pod is engaged."""
        path = f"/v1/engagements/{engagement}?wait={WAIT}"
        while (found := cast("Engagement", self.call("GET", path, timeout=WAIT + 10.0)))["state"] == "waiting":
            pass
        return found

    def handler(self, engagement: str, address: str, container: str, target: str | None = None) -> Engagement:
        """Tell who runs here for the engagement with this ID, and where its traffic goes if not there."""
        body = {"address": address, "container": container}
        if target:
            body["target"] = target
        return cast("Engagement", self.call("PUT", f"/v1/engagements/{engagement}/handler", body))

    def release(self, engagement: str) -> None:
        """Let traffic go to the application again, while files and environment of the engagement with this ID stay."""
        self.call("DELETE", f"/v1/engagements/{engagement}/handler", timeout=ENGAGE_TIMEOUT)

    def disengage(self, engagement: str) -> None:
        """End the engagement with this ID; return when the original is back."""
        self.call("DELETE", f"/v1/engagements/{engagement}", timeout=ENGAGE_TIMEOUT)

    def quit(self, timeout: float = ENGAGE_TIMEOUT) -> None:
        """End all engagements and remove what the connection made in the cluster."""
        self.call("POST", "/v1/quit", {}, timeout)


def _refusal(status: int, answer: dict[str, Any]) -> TeleError:
    """Return the error that an answer of the control API stands for, as one line."""
    text = " ".join(str(answer.get("error") or f"the daemon answered with HTTP status {status}").split())
    code = str(answer.get("code", ""))
    nearest = [str(name) for name in answer.get("nearest") or []]
    if nearest and not all(name in text for name in nearest):
        text += f"; the nearest names are {', '.join(nearest)}"
    containers = [str(name) for name in answer.get("containers") or []]
    if containers and not (all(name in text for name in containers) and "--container" in text):
        text += f"; choose one with --container: {', '.join(containers)}"
    if code == "unauthorized":
        return UnauthorizedError(text)
    error = _KINDS.get(code, TeleError)(text)
    error.code = code or error.code
    return error
