"""nftables commands, run in this process through libnftables (libnftables(3)), or by the ``nft`` command where that cannot be loaded.

In process, because a set's elements are renewed twice a second: a process each time would cost the pod more than all else that the
agent does.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable
from typing import Any

from telewire.errors import Unavailable

log = logging.getLogger(__name__)

LIBRARY = "libnftables.so.1"
COMMAND = "nft"
COMMAND_TIMEOUT = 5.0


class NftError(Unavailable):
    """nftables did not take the commands; the text is its own, in one line."""


def _library() -> Callable[[str], tuple[str, str]]:
    """Return what runs commands in this process and returns output and errors. OSError if the library is not to be had."""
    import ctypes  # not at the top: most agents never redirect, and it takes a megabyte

    lib = ctypes.CDLL(LIBRARY)
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
    lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    readers = (lib.nft_ctx_get_output_buffer, lib.nft_ctx_get_error_buffer)
    for function in (lib.nft_ctx_buffer_output, lib.nft_ctx_buffer_error, *readers):
        function.argtypes = [ctypes.c_void_p]
    for function in readers:
        function.restype = ctypes.c_char_p
    context = lib.nft_ctx_new(0)
    if not context:
        raise OSError(errno.ENOMEM, "nft_ctx_new failed")
    if lib.nft_ctx_buffer_output(context) or lib.nft_ctx_buffer_error(context):
        raise OSError(errno.ENOMEM, "libnftables has no memory for its output")

    def run(commands: str) -> tuple[str, str]:
        failed = lib.nft_run_cmd_from_buffer(context, commands.encode())
        output, errors = (function(context).decode(errors="replace") for function in readers)  # reading empties them
        return output, (errors or "unknown error") if failed else ""

    return run


def _command(commands: str) -> tuple[str, str]:
    """Run commands by the ``nft`` command; return output and errors."""
    import subprocess

    try:
        done = subprocess.run(
            [COMMAND, "-f", "-"], input=commands, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"{COMMAND}: {error}"
    # The exit code is not to be relied on: an agent that ignores SIGCHLD does not learn it.
    return done.stdout, done.stderr or (f"{COMMAND} ended with {done.returncode}" if done.returncode else "")


def _first_line(errors: str) -> str:
    """Return what nftables says is wrong, less the place in the commands."""
    line = errors.strip().partition("\n")[0]
    return line.partition("Error: ")[2] or line


class Nft:
    """Runs nftables commands in this process's network namespace."""

    def __init__(self) -> None:
        self._run: Callable[[str], tuple[str, str]] | None = None

    def run(self, commands: str) -> str:
        """Run ``commands``, one a line, as one transaction; return what they print. NftError if nothing of them was done."""
        if self._run is None:
            self._run = _command
            try:
                self._run = _library()
            except (OSError, ImportError, AttributeError) as error:
                log.info("%s cannot be used (%s): using the command %s", LIBRARY, error, COMMAND)
        output, errors = self._run(commands)
        if errors:
            raise NftError(_first_line(errors))
        return output

    def tables(self) -> list[str]:
        """Return the names of the tables of the family ``inet``. NftError if they cannot be listed."""
        return [line.split()[2] for line in self.run("list tables inet").splitlines() if line.startswith("table inet ")]

    def delete(self, table: str) -> None:
        """Delete a table of the family ``inet``, if it is there."""
        with contextlib.suppress(NftError):
            self.run(f"delete table inet {table}")


def listening(table: str = "/proc/net/tcp") -> set[int]:
    """Return the ports on which something listens (proc_net_tcp(5)), of IPv4 or, with ``/proc/net/tcp6``, IPv6."""
    ports = set()
    with contextlib.suppress(OSError), open(table) as file:
        next(file, None)
        for line in file:
            fields: list[Any] = line.split(None, 4)
            if fields[3] == "0A":  # TCP_LISTEN
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
