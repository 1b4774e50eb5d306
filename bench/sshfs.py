"""The peer ``sshfs``: the same files, over the same tunnel, through the export that Telemount reads."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import commands
from bench.commands import BenchError

LIMIT = 20.0


@contextlib.contextmanager
def mounted(address: tuple[str, int], token: str, export: str, directory: str, where: Path) -> Iterator[None]:
    """Mount ``directory`` of an export at ``where``.

    As ``sshfs -o directport`` does, but the connection is opened here, since an export begins with a line of its own; sshfs has it
    as standard input and output (``-o passive``), and nothing stands in between.
    """
    if shutil.which("sshfs") is None:
        raise BenchError("sshfs is not installed; it is the peer of the volumes")
    with socket.create_connection(address, timeout=LIMIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(f"SFTP/1 {token} {export}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            more = sock.recv(1)
            if not more:
                raise BenchError("the daemon does not answer the export's first line")
            answer += more
        if answer != b"OK\n":
            raise BenchError(f"the daemon does not export {export}: {answer.decode().strip()}")
        sock.settimeout(None)
        where.mkdir()
        command = ["sshfs", "-f", "-o", "passive", f"export:{directory}", str(where)]
        process = subprocess.Popen(command, stdin=sock.fileno(), stdout=sock.fileno(), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LIMIT
        while not os.path.ismount(where):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("sshfs does not mount the export")
            time.sleep(0.02)
        yield
    finally:
        commands.run(["umount", "-l", str(where)], check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            where.rmdir()
