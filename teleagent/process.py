"""The agent as a process: its sockets, its signals, its end. It may be PID 1, of any user, on a read-only root file system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket

from teleagent import application
from teleagent.agent import Agent
from teleagent.options import Options
from telewire import logs

log = logging.getLogger("teleagent")

MOST_FILES = 65536
"""Open files wanted: one for each connection and each file that a client has open."""
LINGER = 3600.0
"""Seconds that connections with the application may outlast the agent's work: they are the application's own traffic."""
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""How a kernel or a pod without IPv6 refuses a socket."""


def listening_sockets(port: int) -> list[socket.socket]:
    """Return sockets on the pod's loopback, both families where there are both. OSError if the port is taken."""
    sockets = [socket.create_server(("127.0.0.1", port), backlog=128)]
    try:
        sockets.append(socket.create_server(("::1", port), family=socket.AF_INET6, backlog=128))
    except OSError as error:
        if error.errno not in NO_FAMILY:
            sockets[0].close()
            raise
    return sockets


async def run(options: Options) -> int:
    """Serve until SIGTERM, a ``shutdown`` message, or nobody was there for ``exit_when_idle`` seconds; return the exit code."""
    loop = asyncio.get_running_loop()
    agent = Agent(options.token_sha256)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop.set)
    try:
        await agent.start(*listening_sockets(options.port))
    except OSError as error:
        log.error("cannot listen on port %d of the pod's loopback: %s", options.port, error.strerror)
        return 1
    log.info("listening on 127.0.0.1:%d", options.port)
    idle_since = loop.time()
    while not agent.stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await agent.stop.wait()
        if agent.server.linked:
            idle_since = loop.time()
        elif options.exit_when_idle is not None and loop.time() - idle_since >= options.exit_when_idle:
            log.info("no client for %g s: ending", options.exit_when_idle)
            break
    await agent.close()
    await application.settled(LINGER)
    return 0


def _event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def serve(options: Options) -> int:
    """Run the agent in this process; return its exit code. Threads that hang in a file or a name look-up may be left."""
    logs.set_up("teleagent")
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # as PID 1 it inherits others' children; ignored, the kernel reaps them
    os.umask(0)  # a file gets the mode that the client wants: its kernel has applied its own umask
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    with contextlib.suppress(ValueError, OSError):  # fewer open files are no reason not to start
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    gc.freeze()
    loop = _event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(run(options))
