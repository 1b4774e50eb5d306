"""A TCP proxy that adds a round trip without a limit to the bandwidth, for kernels without netem: ``python -m bench.delay LISTEN TARGET``.

Prints its port. Each line on standard input is the round trip from then on, in milliseconds; it ends with standard input. TCP ends at the
proxy on both sides, so what is felt is windows and round trips of the application, not of TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import cast

CHUNK = 1 << 20
WAITING = 64 << 20
"""Bytes of one direction that may wait: 64 MB in 10 ms are far more than any path here carries."""
EARLY = 0.0002
"""Seconds that a chunk may leave too early, rather than one turn of the loop too late."""

_shared = bytearray(CHUNK)
_view = memoryview(_shared)


class Delay:
    """How long each direction holds what it has read, in seconds."""

    seconds = 0.0


class Half(asyncio.BufferedProtocol):
    """One side of a connection; what comes in here leaves at :attr:`peer` later. None in the queue is the end."""

    def __init__(self, delay: Delay) -> None:
        self.peer: Half | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._paused = self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write at once, and do not let the transport hold much back."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=4 << 20)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, _hint: int) -> memoryview:
        """Read into the one buffer of all."""
        return _view

    def buffer_updated(self, size: int) -> None:
        """Queue what came."""
        self._waiting += size
        self._put(bytes(_view[:size]))
        if self._waiting > WAITING and not self._paused and self.transport:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Pass the end on like bytes."""
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on: an end, or a reset."""
        self._end()
        if error is not None and self.peer is not None and self.peer.transport is not None:
            self._loop.call_later(self._delay.seconds, self.peer.transport.abort)

    def pause_writing(self) -> None:
        """Hold the other side's queue."""
        if self.peer is not None:
            self.peer._blocked = True

    def resume_writing(self) -> None:
        """Go on with the other side's queue."""
        if self.peer is not None:
            self.peer._blocked = False
            self.peer.go_on()

    def go_on(self) -> None:
        """Be called again when the first chunk is due."""
        if self._timer is None and self._queue and self.peer is not None and not self._blocked:
            self._timer = self._loop.call_at(self._queue[0][0], self._due)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._put(None)

    def _put(self, data: bytes | None) -> None:
        self._queue.append((self._loop.time() + self._delay.seconds, data))
        if self._delay.seconds:
            self.go_on()
        elif self._timer is None:
            self._due()

    def _due(self) -> None:
        self._timer = None
        now = self._loop.time() + EARLY
        target = self.peer.transport if self.peer is not None else None
        if self.peer is None or target is None:
            return
        while self._queue and self._queue[0][0] <= now and not self._blocked:
            data = self._queue.popleft()[1]
            self._waiting -= len(data or b"")
            if target.is_closing():
                continue
            if data is not None:
                target.write(data)
                continue
            with contextlib.suppress(OSError):
                target.write_eof()
            if self.peer._ended:
                target.close()
        if self._paused and self._waiting < WAITING // 2 and self.transport and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
        self.go_on()


async def serve(listen: str, target: str) -> None:
    """Relay until standard input ends."""
    loop, delay, tasks = asyncio.get_running_loop(), Delay(), set[asyncio.Task[None]]()
    host, _, port = target.rpartition(":")

    async def dial(near: Half) -> None:
        try:
            _, far = await loop.create_connection(lambda: Half(delay), host.strip("[]"), int(port))
        except OSError:
            if near.transport:
                near.transport.abort()
            return
        near.peer, far.peer = far, near
        near.go_on()
        far.go_on()

    def accepted() -> Half:
        near = Half(delay)
        task = loop.create_task(dial(near))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    server = await loop.create_server(accepted, listen, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        delay.seconds = float(line) / 2000
        print("ok", flush=True)
    server.close()


class DelayProxy:
    """The proxy, running."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.port = process, port

    def set(self, round_trip: float) -> None:
        """Add ``round_trip`` milliseconds from now on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{round_trip}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


@contextlib.contextmanager
def running(listen: str, target: str) -> Iterator[DelayProxy]:
    """Run the proxy in a process of its own. RuntimeError if it does not start."""
    command = [sys.executable, "-m", "bench.delay", listen, target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.strip():
                raise RuntimeError(f"the delay proxy cannot listen on {listen}")
            yield DelayProxy(process, int(line))
        finally:
            process.kill()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.argv[1], sys.argv[2]))
