"""The sample application; PART says which part of it this container is."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import frontend

PORT = int(os.environ.get("PORT", "8080"))
QUOTES = (
    "The network is reliable, said nobody twice.",
    "A cache is a promise that you hope to keep.",
    "There is no cloud, only a cluster you have not met.",
)


def backend() -> None:
    """Tell by HTTP which pod answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = (json.dumps({"hostname": socket.gethostname(), "path": self.path}) + "\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing for each request."""

    server = ThreadingHTTPServer(("", PORT), Handler)
    server.daemon_threads = True
    server.serve_forever()


def quotes() -> None:
    """Over raw TCP: speak first, then repeat each line until the other side has no more."""

    class Handler(socketserver.StreamRequestHandler):
        count = 0

        def handle(self) -> None:
            Handler.count += 1
            self.wfile.write((QUOTES[Handler.count % len(QUOTES)] + "\n").encode())
            for line in self.rfile:
                self.wfile.write(line)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    Server(("", int(os.environ.get("PORT", "1717"))), Handler).serve_forever()


def clock() -> None:
    """Over UDP: answer each datagram with the time and the datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", int(os.environ.get("PORT", "1123"))))
        while True:
            datagram, address = sock.recvfrom(65535)
            now = datetime.datetime.now(datetime.UTC).isoformat()
            sock.sendto(f"{now} ".encode() + datagram, address)


def client() -> None:
    """Do nothing: somebody runs commands in here."""
    threading.Event().wait()


def main() -> None:
    """Be the part that PART names."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    part = os.environ.get("PART", "frontend")
    parts = {
        "frontend": lambda: frontend.serve("v1"),
        "backend": backend,
        "quotes": quotes,
        "clock": clock,
        "client": client,
    }
    if part not in parts:
        sys.exit(f"sample: PART={part!r} is none of {', '.join(parts)}")
    parts[part]()


if __name__ == "__main__":
    main()
