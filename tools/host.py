"""What the host and its engine hold, as plain data that can be compared before, during and after."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

LABEL = "telepresence.io/connection"

DOCKERS_OWN = re.compile(r"^(docker0|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7,})$")
"""Interfaces that the engine makes for any container on a bridge network."""


def output(*command: str) -> str:
    """Run ``command`` and return its standard output; CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def engine(connection: str = "") -> dict[str, list[str]]:
    """Return the names of all that carries our label in the engine, by kind, of connections whose names begin with ``connection``."""
    shown = f'{{{{.Label "{LABEL}"}}}} {{{{.%s}}}}'
    kinds = {
        "containers": ["ps", "-a", "--format", shown % "Names"],
        "networks": ["network", "ls", "--format", shown % "Name"],
        "volumes": ["volume", "ls", "--format", shown % "Name"],
    }
    found = {}
    for kind, listing in kinds.items():
        lines = output("docker", *listing, "--filter", f"label={LABEL}").splitlines()
        found[kind] = sorted(line.split()[1] for line in lines if line.startswith(connection))
    return found


def links() -> list[str]:
    """Return the host's interfaces outside Docker's own."""
    names = [link["ifname"] for link in json.loads(output("ip", "-j", "link"))]
    return sorted(name for name in names if not DOCKERS_OWN.match(name))


def mounts() -> list[str]:
    """Return the FUSE mounts of the host."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines if " - fuse" in line and "telemount" in line)


def routes() -> list[str]:
    """Return the host's routes, both families, outside Docker's own interfaces."""
    found = (
        output("ip", "route", "show", "table", "all").splitlines()
        + output("ip", "-6", "route", "show", "table", "all").splitlines()
    )
    kept = []
    for line in found:
        device = re.search(r" dev (\S+)", line)
        # `ip` writes the number of a link that went while it was listing, as a container's does.
        if device is None or not (DOCKERS_OWN.match(device.group(1)) or re.fullmatch(r"if\d+", device.group(1))):
            kept.append(" ".join(line.split()))
    return sorted(kept)


def nftables() -> list[str]:
    """Return the names of the host's nftables tables; Docker's rules in its own change with any container."""
    return sorted(output("nft", "list", "tables").splitlines())


def network() -> dict[str, object]:
    """Return all of the host's network that an engagement must leave as it is."""
    return {
        "links": links(),
        "routes": routes(),
        "rules": output("ip", "rule").splitlines() + output("ip", "-6", "rule").splitlines(),
        "nftables": nftables(),
        "resolver": Path("/etc/resolv.conf").read_text(),
        "hosts": Path("/etc/hosts").read_text(),
    }
