"""The VIF alone in a process, over a session with the agent whose network namespace is that of a given process.

``vif_process AGENT_PID SUBNET…``: says ``ready``, then obeys the lines ``lose`` (the session ends) and ``stop``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys

import uvloop

from teledaemon.links import Links
from teledaemon.vif import Vif
from telewire import names
from tests.teledaemon.agent_link import open_session
from tests.teledaemon.netns import socket_in


async def main(agent: int, networks: list[str]) -> None:
    """Serve until standard input says so or ends."""
    loop = asyncio.get_running_loop()
    sock = socket_in(agent)
    sock.connect(("127.0.0.1", names.AGENT_PORT))
    session = await open_session(sock)
    links = Links()
    vif = Vif(lambda: session, links)
    await vif.start()
    await vif.route(map(ipaddress.ip_network, networks))
    print("ready", flush=True)
    while (line := await loop.run_in_executor(None, sys.stdin.readline)) == "lose\n":
        session.close("it is lost")
        print("lost", flush=True)
    print(f"connections {vif.connections} after {line!r}", flush=True)
    vif.close()
    session.close()
    links.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
