"""The control API (``docs/architecture.md``): HTTP on port 4038, for this machine, with the token."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from teledaemon import links
from teledaemon.connection import Connection
from teledaemon.peers import Peers
from telewire import names
from telewire.errors import BadRequest, TeleError

log = logging.getLogger(__name__)

STATUSES = {
    "bad-request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "conflict": 409,
    "not-connected": 409,
    "unavailable": 503,
}
LONGEST_WAIT = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _refusal(error: TeleError) -> web.Response:
    body: dict[str, Any] = {"error": " ".join(str(error).split()), "code": error.code}
    for extra in ("nearest", "containers"):
        if hasattr(error, extra):
            body[extra] = getattr(error, extra)
    return web.json_response(body, status=STATUSES.get(error.code, 500))


def _middleware(token: str, admit: Callable[[str], bool]) -> Any:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = request.remote or ""
        if not peer or not admit(peer):
            return web.json_response(
                {"error": f"{peer} may not use the control API: only the engine's host may", "code": "forbidden"},
                status=403,
            )
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(errors="surrogateescape"), expected):
            return web.json_response(
                {"error": "wrong or no token; use the one of this connection's daemon", "code": "unauthorized"},
                status=401,
            )
        try:
            return await handler(request)
        except TeleError as error:
            return _refusal(error)
        except web.HTTPException as error:
            return web.json_response(
                {"error": f"{request.method} {request.path}: {error.reason}", "code": "not-found"}, status=error.status
            )
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            text = f"the daemon failed at {request.method} {request.path}: {error!r}; its log says more"
            return web.json_response({"error": text, "code": "internal"}, status=500)

    return middleware


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json() if request.can_read_body else {}
    except ValueError:
        raise BadRequest("the request's body is no JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the request's body is no JSON object")
    return body


def _wait(request: web.Request) -> float:
    """Return for how many seconds an answer may be waited for."""
    try:
        return min(max(float(request.query.get("wait", "0")), 0.0), LONGEST_WAIT)
    except ValueError:
        raise BadRequest("`wait` is a number of seconds") from None


class Api:
    """The calls, and the server that takes them."""

    def __init__(self, connection: Connection, token: str, peers: Peers) -> None:
        self._connection = connection
        self._peers = peers
        app = web.Application(middlewares=[_middleware(token, self.admits)], client_max_size=8 << 20)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.post("/v1/connect", self._connect),
                web.get("/v1/credentials", self._credentials_wanted),
                web.put("/v1/credentials", self._credentials),
                web.get("/v1/workloads", self._workloads),
                web.get("/v1/engagements", self._engagements),
                web.post("/v1/engagements", self._engage),
                web.get("/v1/engagements/{id}", self._engagement),
                web.delete("/v1/engagements/{id}", self._disengage),
                web.put("/v1/engagements/{id}/handler", self._handler),
                web.delete("/v1/engagements/{id}/handler", self._release),
                web.post("/v1/quit", self._quit),
                web.put("/v1/networks/{id}", self._network),
                web.delete("/v1/networks/{id}", self._remove_network),
                web.put("/v1/networks/{id}/endpoints/{eid}", self._endpoint),
                web.delete("/v1/networks/{id}/endpoints/{eid}", self._remove_endpoint),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, handler_cancellation=False)

    def admits(self, peer: str) -> bool:
        """Whether a peer may speak with the daemon at all."""
        networks = self._connection.networks.networks.values()
        return self._peers.admits(peer, [subnet["pool"] for network in networks for subnet in network.subnets])

    async def start(self) -> None:
        """Listen. OSError if the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", names.CONTROL_PORT, shutdown_timeout=5.0).start()

    async def close(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._connection.status())

    async def _connect(self, request: web.Request) -> web.Response:
        await self._connection.connect(await _body(request))
        return web.json_response(self._connection.status())

    async def _credentials_wanted(self, request: web.Request) -> web.Response:
        wait = _wait(request)
        cluster = self._connection.cluster
        if cluster is None:
            await asyncio.sleep(wait)
            return web.json_response({"wanted": False})
        try:
            async with asyncio.timeout(wait):
                await cluster.refused.wait()
        except TimeoutError:
            pass
        return web.json_response({"wanted": cluster.refused.is_set()})

    async def _credentials(self, request: web.Request) -> web.Response:
        cluster = self._connection.cluster
        if cluster is not None:
            await cluster.renew(await _body(request))
            if self._connection.gateway is not None and self._connection.gateway.tunnel is not None:
                self._connection.gateway.tunnel.hurry()
        return web.json_response({})

    async def _workloads(self, _: web.Request) -> web.Response:
        return web.json_response({"workloads": await self._connection.list_workloads()})

    async def _engagements(self, _: web.Request) -> web.Response:
        return web.json_response({"engagements": [one.describe() for one in self._connection.engagements.values()]})

    async def _engage(self, request: web.Request) -> web.Response:
        made = await self._connection.engage(await _body(request))
        return web.json_response(made.describe(whole=True), status=201)

    async def _engagement(self, request: web.Request) -> web.Response:
        made = await self._connection.until_active(request.match_info["id"], _wait(request))
        return web.json_response(made.describe(whole=True))

    async def _disengage(self, request: web.Request) -> web.Response:
        await self._connection.disengage(request.match_info["id"])
        return web.json_response({})

    async def _handler(self, request: web.Request) -> web.Response:
        made, body = self._connection.engagement(request.match_info["id"]), await _body(request)
        try:
            address = str(ipaddress.ip_address(str(body.get("address"))))
        except ValueError:
            raise BadRequest(f"the handler's address {body.get('address')!r} is none") from None
        made.handler.attach(address, str(body.get("container") or ""), str(body.get("target") or ""))
        return web.json_response(made.describe())

    async def _release(self, request: web.Request) -> web.Response:
        await self._connection.engagement(request.match_info["id"]).release()
        return web.json_response({})

    async def _quit(self, _: web.Request) -> web.Response:
        await self._connection.quit()
        return web.json_response({})

    async def _network(self, request: web.Request) -> web.Response:
        await self._connection.networks.put(request.match_info["id"], await _body(request))
        return web.json_response({"netns": links.namespace(), "routes": self._connection.routes()})

    async def _remove_network(self, request: web.Request) -> web.Response:
        await self._connection.networks.remove(request.match_info["id"])
        return web.json_response({})

    async def _endpoint(self, request: web.Request) -> web.Response:
        key, endpoint = request.match_info["id"], request.match_info["eid"]
        await self._connection.networks.put_endpoint(key, endpoint, await _body(request))
        return web.json_response({"routes": self._connection.routes()})

    async def _remove_endpoint(self, request: web.Request) -> web.Response:
        await self._connection.networks.remove_endpoint(request.match_info["id"], request.match_info["eid"])
        return web.json_response({})
