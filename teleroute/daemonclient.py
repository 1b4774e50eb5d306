"""The daemon's control API as Teleroute uses it (``docs/architecture.md``)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, cast

from teleroute.options import Network
from telewire.errors import Forbidden, NotFound, TeleError, Unavailable

if TYPE_CHECKING:
    import aiohttp

TIMEOUT = 3.0


class DaemonClient:
    """Calls the daemon of a network."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def put_network(self, network: Network) -> tuple[int, list[str]]:
        """Have the daemon make its side of the network; return its network namespace's inode and the cluster's subnets."""
        body = {"subnets": [{"pool": s.pool, "gateway": s.gateway} for s in network.subnets], "mtu": network.mtu}
        answer = await self._call(network, "PUT", f"/v1/networks/{network.id}", body)
        try:
            return int(answer["netns"]), [str(route) for route in answer["routes"]]
        except (KeyError, TypeError, ValueError):
            raise _no_daemon(network, "its answer lacks netns or routes") from None

    async def delete_network(self, network: Network) -> None:
        """Have the daemon remove its side."""
        await self._call(network, "DELETE", f"/v1/networks/{network.id}")

    async def put_endpoint(self, network: Network, endpoint: str, interface: str, addresses: list[str]) -> list[str]:
        """Have the daemon put a link on its bridge; return the cluster's subnets. NotFound if it does not know the network."""
        body = {"interface": interface, "addresses": addresses}
        answer = await self._call(network, "PUT", f"/v1/networks/{network.id}/endpoints/{endpoint}", body)
        return [str(route) for route in answer.get("routes") or []]

    async def delete_endpoint(self, network: Network, endpoint: str) -> None:
        """Have the daemon forget a link."""
        await self._call(network, "DELETE", f"/v1/networks/{network.id}/endpoints/{endpoint}")

    async def _call(self, network: Network, method: str, path: str, body: object | None = None) -> dict[str, Any]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False)
        headers = {"Authorization": f"Bearer {network.token}"}
        try:
            async with self._session.request(
                method, f"http://{network.daemon}{path}", json=body, headers=headers
            ) as response:
                status, raw = response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error) or "no answer in time"
            raise Unavailable(
                f"no Telepresence daemon answers at {network.daemon} ({reason}): `telepresence connect --docker` starts it anew; "
                "check the option daemon"
            ) from None
        return _answer(network, status, raw)


def _no_daemon(network: Network, why: str) -> Unavailable:
    return Unavailable(f"what answers at {network.daemon} is no Telepresence daemon ({why}); check the option daemon")


def _answer(network: Network, status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw) if raw else {}
        if not isinstance(answer, dict):
            raise ValueError("no object")
    except ValueError:
        raise _no_daemon(network, f"HTTP {status}") from None
    if status < 400:
        return cast("dict[str, Any]", answer)
    text = str(answer.get("error") or f"HTTP status {status}")
    if status == 401:
        raise Forbidden(f"the daemon at {network.daemon} refuses the token; check the option token")
    raise {403: Forbidden, 404: NotFound}.get(status, TeleError)(f"the daemon at {network.daemon} refuses: {text}")
