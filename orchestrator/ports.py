"""Find out beforehand that a host port is taken, and by whom."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

from orchestrator.dockerflags import Published
from orchestrator.engine import Engine
from telewire.errors import Conflict


def check_free(engine: Engine, wanted: Published) -> None:
    """Check that a port that is to be published is free on this machine.

    :raises Conflict: a container or another process has it
    """
    for container in engine.all_containers():
        for published in container.get("Ports") or []:
            if (published.get("PublicPort"), published.get("Type")) == (wanted.port, wanted.protocol) and _clash(
                wanted.address, str(published.get("IP") or "")
            ):
                raise Conflict(
                    f"port {wanted.port} is in use on this machine by the container {container['Names'][0][1:]}; "
                    "publish another with -p HOSTPORT:PORT"
                )
    if not _bindable(wanted):
        where = wanted.address or "this machine"
        raise Conflict(f"port {wanted.port} is in use on {where}; free it, or publish another with -p HOSTPORT:PORT")


def _clash(one: str, other: str) -> bool:
    """Return whether two addresses are the same, or one of them means all."""
    everything = ("", "0.0.0.0", "::")
    return one in everything or other in everything or one == other


def _bindable(wanted: Published) -> bool:
    """Return whether nothing on this machine holds the port; what this user may not try is Docker's to tell."""
    try:
        version = ipaddress.ip_address(wanted.address or "0.0.0.0").version
    except ValueError:
        return True
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    kind = socket.SOCK_DGRAM if wanted.protocol == "udp" else socket.SOCK_STREAM
    with contextlib.closing(socket.socket(family, kind)) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wanted.address or "0.0.0.0", wanted.port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
