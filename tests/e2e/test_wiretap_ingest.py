"""``wiretap``: both get the request, the pod answers. ``ingest``: no request comes. Neither restarts or slows anything."""

from __future__ import annotations

import json
import subprocess
import time

from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.test_intercept import answered_by, docker, identity

RECORDER = (
    "import http.server, os\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    " def do_GET(self):\n"
    "  print('got', self.path, flush=True); self.send_response(500); self.end_headers()\n"
    " def log_message(self, *a): pass\n"
    "http.server.ThreadingHTTPServer(('', 8080), H).serve_forever()\n"
)
"""A handler that prints each request and answers nonsense, which nobody may ever see."""

DEAF = "import socket, time\ns = socket.create_server(('', 1717), backlog=1)\ntime.sleep(600)\n"
"""A handler that takes connections and never reads."""


def handler() -> str:
    return docker(
        "ps", "-q", "--filter", "label=telepresence.io/role=handler", "--filter", "label=telepresence.io/connection=e2e"
    )


def python(code: str) -> list[str]:
    return ["--docker-run", "--", "--entrypoint", "python3", "frontend-v2", "-u", "-c", code]


def test_both_get_the_request_and_the_pod_answers(connection: str, telepresence: Command, kube: Kube) -> None:
    before = identity(kube, "frontend-v1")
    child = telepresence.start("wiretap", "frontend-v1", "--port", "8080", *python(RECORDER))
    try:
        eventually(lambda: bool(handler()), lambda: child.poll() is None or child.stdout.read())

        def seen() -> bool:
            assert '"v1"' in kube.get("http://frontend-v1/")
            return "got /" in docker("logs", handler())

        eventually(seen, lambda: child.poll() is None or child.stdout.read())
        assert '"v1"' in kube.get(f"http://{kube.pods('frontend-v1')[0].status.pod_ip}:8080/?by=address")
        eventually(lambda: "by=address" in docker("logs", handler()))
        assert "kube-probe" not in docker("logs", handler())
        assert "/healthz" not in docker("logs", handler())

        def counted() -> bool:
            status = json.loads(telepresence("status", "--output", "json").stdout)
            copies = status["daemon"]["wiretaps"][0]["copies"]
            return copies["sent"] >= 2 and copies["lost"] == 0

        eventually(counted)
    finally:
        stop(child)
    assert identity(kube, "frontend-v1") == before


def test_slow_reader_loses_copies_and_the_original_none(connection: str, telepresence: Command, kube: Kube) -> None:
    child = telepresence.start("wiretap", "quotes", "--port", "1717", *python(DEAF))
    try:
        eventually(lambda: bool(handler()), lambda: child.poll() is None or child.stdout.read())
        big = (
            "import socket, threading\n"
            "s = socket.create_connection(('quotes-0.quotes', 1717), 20)\n"
            "lines = b''.join(b'%07d\\n' % n for n in range(1_000_000))\n"
            "f = s.makefile('rb'); f.readline()\n"
            "threading.Thread(target=lambda: (s.sendall(lines), s.shutdown(1))).start()\n"
            "print(f.read() == lines)"
        )
        client = kube.pods("client")[0].metadata.name
        for _ in range(2):
            assert kube.run(client, "python3", "-c", big) == "True\n"

        def lost() -> bool:
            status = json.loads(telepresence("status", "--output", "json").stdout)
            return bool(status["daemon"]["wiretaps"][0]["copies"]["lost"] >= 2)

        eventually(lost)
    finally:
        stop(child)


def test_wiretap_beside_an_intercept_sees_what_that_answers(connection: str, telepresence: Command, kube: Kube) -> None:
    first = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    try:
        eventually(
            lambda: answered_by(kube, "frontend-v1") == {"v2"}, lambda: first.poll() is None or first.stdout.read()
        )
        second = telepresence.start(
            "wiretap", "tap", "--workload", "frontend-v1", "--port", "8080", "--docker-run", "--",
            "--name", "e2e-tap", "--entrypoint", "python3", "frontend-v2", "-u", "-c", RECORDER,
        )  # fmt: skip
        try:

            def both() -> bool:
                assert answered_by(kube, "frontend-v1") == {"v2"}
                return "got /" in docker("logs", "e2e-tap")

            eventually(both, lambda: second.poll() is None or second.stdout.read())
        finally:
            stop(second)
        assert answered_by(kube, "frontend-v1") == {"v2"}
    finally:
        stop(first)
    eventually(lambda: answered_by(kube, "frontend-v1") == {"v1"})


def test_no_request_comes_to_an_ingest(connection: str, telepresence: Command, kube: Kube) -> None:
    before = identity(kube, "frontend-v1")
    environment = json.loads(kube.get("http://frontend-v1/env"))
    child = telepresence.start("ingest", "frontend-v1", *python(RECORDER))
    try:
        eventually(lambda: bool(handler()), lambda: child.poll() is None or child.stdout.read())
        for _ in range(5):
            assert '"v1"' in kube.get("http://frontend-v1/")
        time.sleep(1)
        assert docker("logs", handler()) == ""
        shown = docker("exec", handler(), "python3", "-c", "import json,os,base64;print(json.dumps({k.decode():"
                       "base64.b64encode(v).decode() for k,v in os.environb.items()}))")  # fmt: skip
        here = json.loads(shown)
        for name, value in environment.items():
            if name not in ("PATH", "HOME", "LC_CTYPE"):
                assert here.get(name) == value, name
        assert "Hello from the cluster" in docker("exec", handler(), "cat", "/etc/frontend/greeting.txt")
        refused = subprocess.run(["docker", "exec", handler(), "touch", "/data/x"], capture_output=True, text=True)
        assert "Read-only" in refused.stderr
    finally:
        stop(child)
    assert identity(kube, "frontend-v1") == before


def test_to_pod_reaches_the_pods_own_loopback(connection: str, telepresence: Command, kube: Kube) -> None:
    script = (
        "import time, urllib.request as u\n"
        "for _ in range(100):\n"
        " try: print(u.urlopen('http://localhost:8080/', timeout=5).read().decode()); break\n"
        " except OSError: time.sleep(0.2)\n"
    )
    done = telepresence("ingest", "frontend-v1", "--to-pod", "8080", *python(script), timeout=60)
    assert '"v1"' in done.stdout
