"""A daemon without a cluster, in the network namespace it is started in: the real control API over real bridges, with routes to tell."""

from __future__ import annotations

import asyncio
import signal
import sys

from teledaemon.api import Api
from teledaemon.connection import Connection
from teledaemon.links import Links
from teledaemon.peers import Peers


class Connected(Connection):
    """Tells the routes that a cluster would have."""

    def routes(self) -> list[str]:
        """Return the routes that were given on the command line."""
        return sys.argv[2:]


async def serve(token: str) -> None:
    """Serve until SIGTERM; say ``ready`` when the port listens."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    links, peers = Links(), Peers()
    await peers.learn(links)
    connection = Connected(links)
    api = Api(connection, token, peers)
    await api.start()
    print("ready", flush=True)
    await stop.wait()
    await connection.close()
    await api.close()
    links.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
