"""Requests at a steady rate from another pod, each on a connection of its own, counted one by one."""

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import dataclass

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from tests.e2e.conftest import Kube

RATE = 50
SCRIPT = r"""
import http.client, json, sys, threading, time
host, port, seconds, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
found, lock = [], threading.Lock()
def ask(began):
    said = None
    try:
        connection = http.client.HTTPConnection(host, port, timeout=8)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        said = answer.headers.get("X-Version") or "status %d" % answer.status
        ok = answer.status == 200
        connection.close()
    except Exception as error:
        ok, said = False, repr(error)
    with lock:
        found.append([began, time.time() - began, ok, said])
first, threads = time.time(), []
for number in range(int(seconds * rate)):
    time.sleep(max(0.0, first + number / rate - time.time()))
    thread = threading.Thread(target=ask, args=(time.time(),))
    thread.start()
    threads.append(thread)
for thread in threads:
    thread.join(10)
with open(sys.argv[5] + ".new", "w") as file:
    json.dump(found, file)
__import__("os").rename(sys.argv[5] + ".new", sys.argv[5])
"""


@dataclass(frozen=True)
class Request:
    """One request: when it began (seconds since the epoch), how long it took, and who answered, or what went wrong."""

    began: float
    took: float
    ok: bool
    said: str


class Hammer:
    """Runs in the client pod for ``seconds``, whatever becomes of the API server meanwhile; :meth:`results` waits for the end."""

    def __init__(self, kube: Kube, host: str, port: int, seconds: float, rate: float = RATE) -> None:
        self._kube = kube
        self._deadline = time.monotonic() + seconds + 40
        self._file = f"/tmp/hammer-{os.urandom(4).hex()}"
        self._pod = kube.pods("client")[0].metadata.name
        words = shlex.join(["python3", "-c", SCRIPT, host, str(port), str(seconds), str(rate), self._file])
        kube.run(self._pod, "sh", "-c", f"nohup {words} >/dev/null 2>&1 </dev/null &")

    def results(self) -> list[Request]:
        """Return all requests, in the order of their beginning."""
        while True:
            try:
                found = json.loads(self._kube.run(self._pod, "cat", self._file))
                break
            except (RuntimeError, ValueError, OSError, WebSocketException, ApiException, HTTPError):
                if time.monotonic() > self._deadline:
                    raise
            time.sleep(0.5)
        self._kube.run(self._pod, "rm", self._file)
        return sorted((Request(*one) for one in found), key=lambda one: one.began)


def failed_after(requests: list[Request], moment: float, grace: float = 0.0) -> list[str]:
    """Return the requests begun later than ``grace`` seconds after ``moment`` that nobody answered well, told by their time since then."""
    return [
        f"{one.began - moment:+.3f} s, {one.took:.3f} s: {one.said}"
        for one in requests
        if one.began > moment + grace and not one.ok
    ]


def now() -> float:
    """Return the time that the requests are measured by: pods share this machine's clock."""
    return time.time()
