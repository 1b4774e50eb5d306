"""The HTTP server of a Docker plugin on its unix socket (https://docs.docker.com/engine/extend/plugin_api/).

Docker dials the socket 500 ms after the plugin's start, so :func:`bind_socket` needs nothing but the standard library: bind first,
import the rest afterwards, the kernel keeps who dials meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telewire.errors import TeleError

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

TOKEN = re.compile(rb'("token"\s*:\s*)"(?:[^"\\]|\\.)*"', re.IGNORECASE)
"""A driver's option that the log does not show."""

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"
MAX_BODY = 1 << 20
KEEP_ALIVE = 75.0
"""Seconds; longer than the 30 that dockerd keeps an idle connection, so that dockerd closes first."""

MAY_BE_EMPTY = frozenset(
    {"Plugin.Activate", "NetworkDriver.GetCapabilities", "VolumeDriver.Capabilities", "VolumeDriver.List"}
)
DEFAULT_DEADLINE = 5.0


def bind_socket(path: str) -> socket.socket:
    """Return a listening unix socket at ``path``, in place of a stale one. OSError if that cannot be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(128)
    return sock


async def _call(name: str, handler: Handler, body: dict[str, Any], deadline: float) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the answer of one call; never raises but for cancellation."""
    try:
        async with asyncio.timeout(deadline):
            return 200, await handler(body)
    except TimeoutError:
        log.error("%s did not end within %g s", name, deadline)
        return 500, {"Err": f"{name} did not end within {deadline:g} s; see the engine's log"}
    except TeleError as error:
        log.warning("%s: %s", name, error)
        return 500, {"Err": str(error)}
    except Exception as error:
        log.exception("%s failed", name)
        return 500, {"Err": f"{name} failed: {type(error).__name__}: {error}".replace("\n", " ")}


def application(
    implements: Sequence[str], methods: Mapping[str, Handler], deadlines: Mapping[str, float] | None = None
) -> web.Application:
    """Return the plugin's aiohttp application: ``methods`` by ``Interface.Method``, seconds each may take in ``deadlines``."""
    from aiohttp import web

    deadlines = deadlines or {}

    async def serve(request: web.Request) -> web.Response:
        def answer(status: int, body: dict[str, Any]) -> web.Response:
            return web.Response(status=status, body=json.dumps(body).encode(), headers={"Content-Type": CONTENT_TYPE})

        name = request.match_info["name"]
        if name == "Plugin.Activate":
            return answer(200, {"Implements": list(implements)})
        handler = methods.get(name)
        if handler is None:
            return answer(404, {"Err": f"{name} is not implemented"})
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return answer(413, {"Err": f"{name}: the request is longer than {MAX_BODY} bytes"})
        if not raw.strip():
            # dockerd repeats a request whose first try was read with an empty body (moby #39331): that is not a request for nothing.
            if name not in MAY_BE_EMPTY:
                return answer(400, {"Err": f"{name}: the request has no body; try again"})
            raw = b"{}"
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            return answer(400, {"Err": f"{name}: the request is no JSON: {error}"})
        if body is None:
            body = {}
        if not isinstance(body, dict):
            return answer(400, {"Err": f"{name}: the request is no JSON object"})
        status, reply = await _call(name, handler, body, deadlines.get(name, DEFAULT_DEADLINE))
        log.debug("%s %s -> %s %s", name, TOKEN.sub(rb'\1"***"', raw)[:2000], status, reply)
        return answer(status, reply)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/{name}", serve)
    return app


async def serve_plugin(
    sock: socket.socket,
    implements: Sequence[str],
    methods: Mapping[str, Handler],
    deadlines: Mapping[str, float] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let calls in flight end for 5 s; a second signal ends at once. Unlinks the socket."""
    from aiohttp import web

    path = sock.getsockname()
    runner = web.AppRunner(
        application(implements, methods, deadlines), access_log=None, keepalive_timeout=KEEP_ALIVE, shutdown_timeout=5.0
    )
    await runner.setup()
    await web.SockSite(runner, sock).start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    log.info("listening on %s", path)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
