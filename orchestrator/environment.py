"""Hand environment variables to ``docker create`` byte by byte, and where no process list or file shows them.

An environment file of Docker's command is a list of lines: it cannot hold line breaks, and it drops white space before a
name. Such variables go through the environment of the command itself (``--env NAME``), unless it would heed them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_LINE = 60_000
"""Docker's command reads lines up to 64 KiB."""
_HEEDED = (
    "DOCKER",
    "BUILD",
    "COMPOSE",
    "LD_",
    "GO",
    "SSL_",
    "OTEL_",
    "XDG_",
    "SSH_",
    "LC_",
    "GLIBC_",
    "MOBY_",
    "GRPC_",
)
_HEEDED_NAMES = {"PATH", "HOME", "USER", "TMPDIR", "TERM", "LANG", "TZ", "ZONEINFO", "NO_COLOR", "HOSTALIASES", "PWD"}


@dataclass
class Transport:
    """How a set of variables reaches the container.

    :ivar lines: the environment file's content
    :ivar inherited: variables for the environment of Docker's command
    :ivar arguments: ``--env`` arguments
    :ivar dropped: names whose values Docker's API, which is JSON, cannot carry
    """

    lines: bytes = b""
    inherited: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def open_file(self) -> int | None:
        """Return a descriptor of the environment file, which is nowhere in a file system; None if it is empty."""
        if not self.lines:
            return None
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("environment")
        else:
            handle, path = tempfile.mkstemp()
            os.unlink(path)
            descriptor = handle
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(self.lines)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor


def plan(variables: Mapping[str, str], given: Sequence[str] = ()) -> Transport:
    """Choose a way for each variable.

    :param given: names that the user sets, which win
    """
    transport = Transport()
    lines = []
    for name in sorted(set(variables) - set(given)):
        value = variables[name]
        try:
            line = f"{name}={value}".encode()
        except UnicodeEncodeError:
            transport.dropped.append(name)
            continue
        if not name or "\0" in name + value:
            transport.dropped.append(name)
        elif fits_line(name, value):
            lines.append(line + b"\n")
        elif _heeded(name) or any(character.isspace() for character in name):
            transport.arguments.append(f"--env={name}={value}")
        else:
            transport.inherited[name] = value
            transport.arguments.append(f"--env={name}")
    transport.lines = b"".join(lines)
    return transport


def names_given(env: Sequence[str], env_files: Sequence[str]) -> list[str]:
    """Return the names that the user sets by ``-e`` and ``--env-file``.

    :raises OSError: a file cannot be read
    """
    found = [entry.partition("=")[0] for entry in env]
    for path in env_files:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                text = line.lstrip()
                if text.strip() and not text.startswith("#"):
                    found.append(text.partition("=")[0].rstrip("\r\n"))
    return found


def fits_line(name: str, value: str) -> bool:
    """Return whether a line of an environment file of Docker's can hold the variable unchanged."""
    if any(character.isspace() for character in name) or name.startswith(("#", "\ufeff")):
        return False
    if "\n" in value or value.endswith("\r"):
        return False
    return len(f"{name}={value}".encode(errors="surrogateescape")) < _LINE


def _heeded(name: str) -> bool:
    """Return whether Docker's command itself, or the loader that starts it, would act on the variable."""
    return name in _HEEDED_NAMES or name.startswith(_HEEDED) or name.upper().endswith("_PROXY")
