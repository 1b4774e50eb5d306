"""The daemon as a process: its token, its signals, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import threading

from teledaemon.api import Api
from teledaemon.connection import Connection
from teledaemon.exports import Exports
from teledaemon.kube import client_library
from teledaemon.links import Links
from teledaemon.peers import Peers
from telewire import logs
from telewire.errors import BadRequest, TeleError

log = logging.getLogger("teledaemon")

TOKEN_VARIABLE = "TELEPRESENCE_TOKEN"
MOST_FILES = 65536
SHORTEST_TOKEN = 16


def token() -> str:
    """Return the token that clients have to show. BadRequest if there is none."""
    found = os.environ.pop(TOKEN_VARIABLE, "")
    if len(found) < SHORTEST_TOKEN:
        raise BadRequest(f"set {TOKEN_VARIABLE} to {SHORTEST_TOKEN} random characters at least")
    return found


async def run(secret: str) -> int:
    """Serve until SIGTERM or SIGINT; then put back what is engaged. Return the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    links = Links()
    peers = Peers()
    await peers.learn(links)
    connection = Connection(links)
    api = Api(connection, secret, peers)
    exports = Exports(secret, api.admits, connection.export)
    await connection.nameserver.serve("127.0.0.1")
    await exports.start()
    await api.start()
    threading.Thread(target=client_library, daemon=True).start()  # while the command is still on its way
    log.info("ready")
    await stop.wait()
    log.info("ending")
    exports.close()
    await connection.close()
    await api.close()
    links.close()
    return 0


def main() -> int:
    """Run the daemon in this process; return its exit code."""
    logs.set_up("teledaemon")
    try:
        secret = token()
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(secret))
    except (TeleError, OSError) as error:
        log.error("%s", error)
        return 1
