"""The plugin's process: ``python -m telemount``. Docker dials the socket 500 ms after the start, so it is bound before all else."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from telemount.propagated import prepare
from telewire.plugin import bind_socket

SOCKET = "/run/docker/plugins/telemount.sock"
ROOT = "/mnt/telemount"
FATAL_PAUSE = 3.0
"""Seconds before a fatal error ends the plugin: Docker starts it again at once, for ever."""

UNSEEN = Path("/run/telemount-unseen")
"""In the plugin's own file system, which is kept when Docker starts it again."""


def _is_first() -> bool:
    """Whether it is the first time in a minute that our mounts are not seen."""
    with contextlib.suppress(OSError):
        if time.time() - UNSEEN.stat().st_mtime < 60:
            return False
    with contextlib.suppress(OSError):
        UNSEEN.touch()
        return True
    return False


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="telemount", description="The Docker volume driver of Telepresence.")
    parser.add_argument("--socket", default=SOCKET, help="default: %(default)s")
    parser.add_argument("--root", default=ROOT, type=Path, help="the propagated mount, default: %(default)s")
    options = parser.parse_args()
    try:
        seen = prepare(options.root)
    except OSError as error:
        sys.stderr.write(f"telemount: cannot prepare {options.root}: {error}\n")
        time.sleep(FATAL_PAUSE)
        sys.exit(1)
    if not seen:
        # Docker makes the mount anew when it starts us again, which it does at once: where that does not help, not without a pause.
        sys.stderr.write(
            f"telemount: the engine has taken the mount {options.root} away; starting again for a new one\n"
        )
        if not _is_first():
            time.sleep(FATAL_PAUSE)
        sys.exit(1)
    try:
        sock = bind_socket(options.socket)
    except OSError as error:
        sys.stderr.write(f"telemount: cannot listen on {options.socket}: {error}\n")
        time.sleep(FATAL_PAUSE)
        sys.exit(1)

    import asyncio

    from telemount.ahead import Ahead
    from telemount.driver import DEADLINES, Driver
    from telemount.volumes import Volumes
    from telewire.logs import set_up
    from telewire.plugin import serve_plugin
    from telewire.state import StateFile

    log = set_up("telemount")

    async def serve() -> None:
        state = options.root / "state"
        state.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds tokens
        volumes = Volumes(StateFile(state / "volumes.json"))
        volumes.load()
        ahead = Ahead()
        driver = Driver(volumes, options.root, ahead.start, ahead)
        restoring = asyncio.create_task(driver.restore())
        try:
            await serve_plugin(sock, ["VolumeDriver"], driver.methods(), DEADLINES)
        finally:
            restoring.cancel()
            await asyncio.gather(restoring, return_exceptions=True)
            await driver.close()

    try:
        asyncio.run(serve())
    except Exception:
        log.exception("telemount cannot go on")
        time.sleep(FATAL_PAUSE)
        sys.exit(1)


if __name__ == "__main__":
    main()
