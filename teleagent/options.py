"""The agent's own arguments, picked out of those of the container that it replaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from telewire import names
from telewire.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Options:
    """What the agent was told.

    ``port`` of the pod's loopback; ``exit_when_idle``: seconds without a client after which to end (None: never); ``token_sha256``: the
    SHA-256 of the only token to take, in hex (None: the first client's).
    """

    port: int = names.AGENT_PORT
    exit_when_idle: float | None = None
    token_sha256: str | None = None


NAMES = ("--port", "--exit-when-idle", "--token-sha256")


def parse(arguments: Sequence[str]) -> Options:
    """Return the agent's options. BadRequest if one of them has no sensible value.

    A replaced container's own ``args`` follow those of the image's entry point and may look alike (``--port 8080``). So the first of
    a name counts, which the entry point gives, and what the agent does not know it ignores.
    """
    first: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in NAMES and name not in first:
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            first[name] = value if equals else following
    options = Options()
    if "--port" in first:
        port = int(first["--port"]) if first["--port"].isdecimal() else 0
        if not 0 < port < 65536:
            raise BadRequest(f"--port {first['--port']!r} is no port; give a number from 1 to 65535")
        options = replace(options, port=port)
    if "--exit-when-idle" in first:
        try:
            seconds = float(first["--exit-when-idle"])
        except ValueError:
            seconds = -1.0
        if not seconds >= 0:
            raise BadRequest(f"--exit-when-idle {first['--exit-when-idle']!r} is no time; give seconds")
        options = replace(options, exit_when_idle=seconds)
    if "--token-sha256" in first:
        digest = first["--token-sha256"].lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise BadRequest(f"--token-sha256 {first['--token-sha256']!r} is no SHA-256; give 64 hex digits")
        options = replace(options, token_sha256=digest)
    return options
