"""The plugin's command: ``python3 -m teleroute``. Its socket is there before anything slow is imported."""

from __future__ import annotations

import os
import sys
import time

from telewire.plugin import bind_socket

SOCKET = "/run/docker/plugins/teleroute.sock"
STATE = "/state/teleroute.json"


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    sock = bind_socket(os.environ.get("TELEROUTE_SOCKET", SOCKET))

    import asyncio
    from pathlib import Path

    from telewire import logs

    log = logs.set_up("teleroute")

    async def serve() -> None:
        from teleroute.daemonclient import DaemonClient
        from teleroute.driver import DEADLINES, Driver
        from teleroute.links import Links
        from telewire.plugin import serve_plugin
        from telewire.state import StateFile

        daemon, links = DaemonClient(), Links()
        driver = Driver(StateFile(Path(os.environ.get("TELEROUTE_STATE", STATE))), daemon, links)
        try:
            await serve_plugin(sock, ["NetworkDriver"], driver.methods(), DEADLINES)
        finally:
            await daemon.close()
            links.close()

    try:
        asyncio.run(serve())
    except Exception:
        log.exception("cannot serve")
        time.sleep(2)  # dockerd starts a plugin that ends at once again, without a pause of its own
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
