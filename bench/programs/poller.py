"""In a pod: ask once each 10 ms, say whenever somebody else answers. ``poller.py HOST PORT PATH``; ends with its standard input.

Prints the version that the answer's header names, or ``-`` for a request that was not answered.
"""

from __future__ import annotations

import asyncio
import os
import sys

PERIOD = 0.01
LIMIT = 2.0
last: str | None = None


async def ask(host: str, port: int, path: str) -> str:
    """Return who answered one request on a new connection."""
    writer = None
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.read(-1)
        return next((line.split()[1] for line in head.splitlines() if line.startswith("x-version:")), "-")
    except (OSError, EOFError, asyncio.LimitOverrunError):
        return "-"
    finally:
        if writer is not None:
            writer.close()


async def poll(host: str, port: int, path: str) -> None:
    """Ask once and tell of a change."""
    global last
    found = await ask(host, port, path)
    if found != last:
        last = found
        print(found, flush=True)


async def main() -> None:
    """Ask until standard input ends."""
    host, port, path = sys.argv[1:]
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def input_comes() -> None:
        if not os.read(0, 4096):
            over.set()

    loop.add_reader(0, input_comes)
    tasks: set[asyncio.Task[None]] = set()
    due = loop.time()
    while not over.is_set():
        task = loop.create_task(poll(host, int(port), path))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due = max(due + PERIOD, loop.time())
        await asyncio.sleep(due - loop.time())


asyncio.run(main())
