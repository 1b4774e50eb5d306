"""In a container: one measurement against ``server.py``, its figures as one line of JSON. ``client.py WHAT HOST PORT ARGUMENTS…``."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import uvloop

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
END = b"ok\n"
"""How an answer ends: a client that knows does not wait for the connection's end, which some port-forwards hold back for a second."""
LIMIT = 20.0
"""Seconds after which a connection counts as failed."""
AT_ONCE = 64
"""Connections that are being opened at the same time when many are to be open."""


def download(host: str, port: int, count: int) -> float:
    """Return the seconds that ``count`` bytes take to come."""
    buffer = bytearray(1 << 20)
    begun = time.perf_counter()
    with socket.create_connection((host, port), timeout=120) as sock:
        sock.sendall(b"d %d\n" % count)
        left = count
        while left:
            size = sock.recv_into(buffer)
            if not size:
                raise EOFError(f"{left} of {count} bytes did not come")
            left -= size
        return time.perf_counter() - begun


def upload(host: str, port: int, count: int) -> float:
    """Return the seconds until the other end has ``count`` bytes and says so."""
    block = memoryview(bytes(1 << 20))
    begun = time.perf_counter()
    with socket.create_connection((host, port), timeout=120) as sock:
        sock.sendall(b"u %d\n" % count)
        left = count
        while left:
            left -= sock.send(block[:left])
        if sock.recv(2) != b"ok":
            raise EOFError("the other end did not get all")
        return time.perf_counter() - begun


def get(host: str, port: int, count: int) -> list[float]:
    """Return the seconds of ``count`` small GETs, one after the other, each on a connection of its own."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        with socket.create_connection((host, port), timeout=LIMIT) as sock:
            sock.sendall(REQUEST)
            answer = b""
            while not answer.endswith(END):
                more = sock.recv(4096)
                if not more:
                    raise EOFError(f"no whole answer: {answer!r}")
                answer += more
        found.append(time.perf_counter() - begun)
    return found


class Count:
    """What became of many connections."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def told(self) -> dict[str, object]:
        """Return it as JSON has it."""
        seconds = sorted(self.seconds)
        return {
            "answered": len(seconds),
            "failed": len(self.errors),
            "errors": sorted(set(self.errors))[:3],
            "median": seconds[len(seconds) // 2] if seconds else None,
            "p99": seconds[len(seconds) * 99 // 100] if seconds else None,
        }


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    await reader.readuntil(END)
    writer.close()


async def _one(host: str, port: int, count: Count) -> None:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(LIMIT):
            await _ask(*await asyncio.open_connection(host, port))
        count.seconds.append(time.perf_counter() - begun)
    except (OSError, EOFError) as error:
        count.errors.append(repr(error))


async def churn(host: str, port: int, rate: int, seconds: int) -> dict[str, object]:
    """Open ``rate`` new connections a second for ``seconds``, whether or not those before are answered."""
    count, tasks = Count(), []
    begun = time.perf_counter()
    for number in range(rate * seconds):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(_one(host, port, count)))
    late = time.perf_counter() - begun - seconds
    await asyncio.gather(*tasks)
    return {**count.told(), "late": late}


async def hold(host: str, port: int, number: int, seconds: int) -> dict[str, object]:
    """Have ``number`` connections open at once for ``seconds``, then an answer on each."""
    count, gate = Count(), asyncio.Semaphore(AT_ONCE)
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open_one() -> None:
        try:
            async with gate, asyncio.timeout(LIMIT):
                opened.append(await asyncio.open_connection(host, port))
        except OSError as error:
            count.errors.append(f"opening: {error!r}")

    async def ask_one(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        try:
            async with gate, asyncio.timeout(LIMIT):
                begun = time.perf_counter()
                await _ask(*pair)
                count.seconds.append(time.perf_counter() - begun)
        except (OSError, EOFError) as error:
            count.errors.append(f"asking: {error!r}")

    begun = time.perf_counter()
    await asyncio.gather(*(open_one() for _ in range(number)))
    took = time.perf_counter() - begun
    await asyncio.sleep(seconds)
    await asyncio.gather(*(ask_one(pair) for pair in opened))
    return {**count.told(), "opened": took}


def main() -> None:
    """Measure and print."""
    what, host, port, *numbers = sys.argv[1:]
    arguments = [int(number) for number in numbers]
    if what in ("churn", "hold"):
        found: object = uvloop.run((churn if what == "churn" else hold)(host, int(port), arguments[0], arguments[1]))
    else:
        found = {"download": download, "upload": upload, "get": get}[what](host, int(port), arguments[0])
    print(json.dumps(found))


main()
