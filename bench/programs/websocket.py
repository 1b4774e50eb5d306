"""In a container: bulk bytes over a bare port-forward WebSocket, nothing in between.

``websocket.py download|upload NAMESPACE POD PORT BYTES``.
Standard input is a kubeconfig of one context as JSON; prints the seconds from the first byte that is sent. As in Kubernetes' sub-protocol
``v4.channel.k8s.io``, each message begins with a channel, and the first one on each is the port's number.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import tempfile
import time
from typing import Any

import aiohttp
import uvloop

BLOCK = 256 * 1024


def context(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS settings of a kubeconfig."""
    authority = cluster.get("certificate-authority-data")
    found = ssl.create_default_context(cadata=base64.b64decode(authority).decode() if authority else None)
    found.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if user.get("client-certificate-data"):
        with tempfile.NamedTemporaryFile() as file:
            for key in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user[key]) + b"\n")
            file.flush()
            found.load_cert_chain(file.name)
    return found


async def transfer(
    session: aiohttp.ClientSession, url: str, tls: ssl.SSLContext, name: str | None, up: bool, count: int
) -> float:
    """Return the seconds that ``count`` bytes take."""
    opened = session.ws_connect(
        url, ssl=tls, server_hostname=name, protocols=("v4.channel.k8s.io",), max_msg_size=0, compress=0
    )
    async with opened as socket:
        await socket.receive_bytes()
        await socket.receive_bytes()
        begun = time.perf_counter()
        await socket.send_bytes(b"\0%s %d\n" % (b"u" if up else b"d", count))
        left = count
        if up:
            block = b"\0" + bytes(BLOCK)
            while left > 0:
                await socket.send_bytes(block[: left + 1])
                left -= BLOCK
            left = 2
        async for message in socket:
            if message.data[0]:
                raise OSError(message.data[1:].decode())
            left -= len(message.data) - 1
            if left <= 0:
                return time.perf_counter() - begun
        raise EOFError(f"{left} bytes did not come")


async def main() -> None:
    """Transfer and print."""
    direction, namespace, pod, port, count = sys.argv[1:]
    document = json.load(sys.stdin)
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
    url = f"{cluster['server'].rstrip('/')}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    async with aiohttp.ClientSession(headers=headers) as session:
        tls, name = context(cluster, user), cluster.get("tls-server-name")
        print(json.dumps(await transfer(session, url, tls, name, direction == "upload", int(count))))


uvloop.run(main())
