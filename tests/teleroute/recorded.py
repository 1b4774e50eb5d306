"""What three engines really sent to a network driver (``recordings``), as calls that can be made again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GENERIC = "com.docker.network.generic"
MTU = "com.docker.network.driver.mtu"
RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("network-*.txt"))


@dataclass(frozen=True)
class Call:
    """One call: ``name`` is the method, or ``START`` where the plugin was started anew."""

    name: str
    body: dict[str, Any] | None
    answered: dict[str, Any]
    command: str
    """The docker command, or what else was done, before it."""

    @property
    def network(self) -> str:
        """The network's ID."""
        return str((self.body or {}).get("NetworkID", ""))

    @property
    def endpoint(self) -> str:
        """The endpoint's ID."""
        return str((self.body or {}).get("EndpointID", ""))

    @property
    def addresses(self) -> list[str]:
        """The addresses that Docker gave an endpoint."""
        interface = (self.body or {}).get("Interface") or {}
        return [interface[key] for key in ("Address", "AddressIPv6") if interface.get(key)]

    @property
    def gateways(self) -> list[str]:
        """The gateways that Docker gave a network, with the prefix length of their pool."""
        body = self.body or {}
        return [data["Gateway"] for data in (*body["IPv4Data"], *body["IPv6Data"]) if data.get("Gateway")]


def _whole(found: re.Match[str]) -> str:
    return hashlib.sha256(found[0].encode()).hexdigest()


def calls(path: Path, options: dict[str, str]) -> Iterator[Call]:
    """Return the calls of one engine, with whole IDs; networks are created with ``options``.

    Where the recorded driver gave no default route, neither does ours.
    """
    command = ""
    for line in path.read_text().splitlines():
        if line.startswith("## "):
            command = line.removeprefix("## ")
        elif line == "# START":
            yield Call("START", None, {}, command)
        else:
            name, _, rest = line.removeprefix("/N.").partition(" ")
            asked, _, answered = rest.partition(" -> ")
            body = json.loads(re.sub(r"<id\d+>", _whole, asked)) if asked.strip() else None
            if body is not None and GENERIC in (body.get("Options") or {}):
                generic = body["Options"][GENERIC]
                gateway = "none" if "gw" in generic else "daemon"
                mtu = {MTU: generic[MTU]} if MTU in generic else {}
                body["Options"][GENERIC] = {**options, **mtu, "gateway": gateway}
            yield Call(name, body, json.loads(answered.split(" ", 1)[1]) or {}, command)
