"""The frontend: shows where it runs and what it was given, and asks the backend. Local development begins with a copy of it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONFIGURED = "/etc/frontend/greeting.txt"
SHARED = "/data/visits"
SHOWN = ("/data/", "/etc/frontend/")


def read(path: str) -> str | None:
    """Return a file's content; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def backend() -> str:
    """Return the name of the backend's pod that answers, or why none does."""
    try:
        with urllib.request.urlopen(os.environ.get("BACKEND_URL", "http://backend/"), timeout=3) as answer:
            return str(json.load(answer)["hostname"])
    except (OSError, ValueError, KeyError) as error:
        return f"error: {error}"


def front_page(version: str) -> dict[str, Any]:
    """Return what ``/`` shows; each call leaves a line in the shared volume."""
    try:
        with open(SHARED, "a", encoding="utf-8") as file:
            file.write(f"{version} on {socket.gethostname()}\n")
    except OSError:
        pass
    lines = (read(SHARED) or "").splitlines()
    return {
        "version": version,
        "hostname": socket.gethostname(),
        "secret": os.environ.get("FRONTEND_SECRET"),
        "color": os.environ.get("FRONTEND_COLOR"),
        "greeting": read(CONFIGURED),
        "visits": len(lines),
        "last_visit": lines[-1] if lines else None,
        "backend": backend(),
    }


def serve(version: str) -> None:
    """Serve until SIGTERM."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            if url.path == "/":
                self.answer(front_page(version))
            elif url.path == "/healthz":
                self.answer({"ok": True})
            elif url.path == "/env":
                encoded = {k.decode(): base64.b64encode(v).decode() for k, v in os.environb.items()}
                self.answer(encoded)
            elif url.path == "/file":
                path = os.path.normpath(urllib.parse.parse_qs(url.query).get("path", [""])[0])
                content = read(path) if path.startswith(SHOWN) else None
                self.answer({"path": path, "content": content}, 200 if content is not None else 404)
            else:
                self.answer({"error": f"there is no {url.path}"}, 404)

        def answer(self, body: dict[str, Any], status: int = 200) -> None:
            data = (json.dumps(body) + "\n").encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Version", version)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing for each request."""

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler)
    server.daemon_threads = True
    server.serve_forever()
