"""Which ports an engagement takes, and which of them the kubelet probes. Pure but for asking for the Services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from telewire.errors import BadRequest

Object = dict[str, Any]
_DIGITS = re.compile(r"[0-9]{1,5}")
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")


@dataclass(frozen=True, slots=True)
class Port:
    """One engaged port: ``local`` on the handler, ``remote`` of the container; ``protocol`` is ``tcp`` or ``udp``."""

    local: int
    remote: int
    protocol: str

    def describe(self) -> dict[str, Any]:
        """Return what the control API tells of it."""
        return {"local": self.local, "remote": self.remote, "protocol": self.protocol}


@dataclass(frozen=True, slots=True)
class _Known:
    """A port that the container declares, or that a Service leads to."""

    number: int
    protocol: str
    names: tuple[str, ...]
    container: str = ""
    service: bool = False


def _protocol(port: Object) -> str:
    return str(port.get("protocol") or "TCP").lower()


def selects(service: Object, labels: Mapping[str, str]) -> bool:
    """Whether a Service leads to pods with ``labels``."""
    wanted = (service.get("spec") or {}).get("selector") or {}
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def known(container: Object, services: Iterable[Object]) -> list[_Known]:
    """Return the ports of a container: those it declares, then others that Services lead to by number."""
    declared = [
        _Known(
            int(port["containerPort"]),
            _protocol(port),
            (str(port["name"]),) if port.get("name") else (),
            str(container["name"]),
        )
        for port in container.get("ports") or []
        if _protocol(port) in ("tcp", "udp")
    ]
    for service in services:
        for port in service["spec"].get("ports") or []:
            target, protocol = port.get("targetPort", port["port"]), _protocol(port)
            names = tuple(str(part) for part in (port.get("name"), port["port"]) if part)
            for index, one in enumerate(declared):
                if one.protocol == protocol and (one.number == target or target in one.names):
                    declared[index] = replace(one, names=one.names + names, service=True)
                    break
            else:
                if isinstance(target, int) and protocol in ("tcp", "udp") and not container.get("ports"):
                    declared.append(_Known(target, protocol, names, str(container["name"]), service=True))
    return declared


def _number(text: str, what: str) -> int:
    if not _DIGITS.fullmatch(text) or not 0 < int(text) < 65536:
        raise BadRequest(f"{what} {text!r} is no port number; use 1 to 65535")
    return int(text)


def resolve(wanted: Iterable[str], container: Object, services: Iterable[Object]) -> list[Port]:
    """Return the ports that ``LOCAL[:ID]`` texts mean; all of the container's if there are none. BadRequest if one is not clear.

    ``ID`` is a number or a name of a port of the container or of a Service, with ``/udp`` or ``/tcp`` behind it if needed.
    """
    there = known(container, list(services))
    texts = list(wanted)
    if not texts:
        return [Port(port.number, port.number, port.protocol) for port in there]
    found = [_one(text, there, f"container {container['name']}") for text in texts]
    _once_each(found)
    return found


def redirected(
    wanted: Iterable[str],
    containers: Iterable[Object],
    services: Iterable[Object],
    container: str | None,
    default: int,
    *,
    of_services: bool = False,
) -> tuple[list[Port], str]:
    """Return the ports that ``intercept`` and ``wiretap`` take, and the container whose environment and files go with them.

    Without ``wanted`` it is the one port that a Service leads to, or else the one that is declared, to ``default`` here. The container is
    ``container``, or that of the first port. ``of_services``: only ports that ``services`` lead to are meant. BadRequest names the
    ports that there are.
    """
    pod, services = list(containers), list(services)
    there = [port for one in pod for port in known(one, services) if port.service or not of_services]
    texts = list(wanted)
    if not texts:
        some = [port for port in there if port.service] or there
        if len(some) != 1:
            listed = _listed(some)
            raise BadRequest(f"which port is meant is not clear; choose with --port LOCAL:ID, ID is one of: {listed}")
        found, first = [Port(default, some[0].number, some[0].protocol)], some[0]
    else:
        what = f"container {pod[0]['name']}" if len(pod) == 1 else "the pod"
        found = [_one(text, there, what) for text in texts]
        _once_each(found)
        first = next(
            (port for port in there if (port.number, port.protocol) == (found[0].remote, found[0].protocol)),
            _Known(found[0].remote, found[0].protocol, (), str(pod[0]["name"])),
        )
    return found, container or first.container


def _once_each(found: list[Port]) -> None:
    for index, port in enumerate(found):
        if any((port.remote, port.protocol) == (other.remote, other.protocol) for other in found[:index]):
            raise BadRequest(f"port {port.remote}/{port.protocol} is given twice; give each port of the container once")


def _listed(there: Iterable[_Known]) -> str:
    return ", ".join(f"{p.number}/{p.protocol}" + (f" ({p.names[0]})" if p.names else "") for p in there) or "none"


def _one(text: str, there: list[_Known], container: str) -> Port:
    local_text, colon, identifier = text.partition(":")
    local = _number(local_text if colon else local_text.partition("/")[0], "the local port")
    if not colon:
        identifier = local_text
    identifier, _, protocol = identifier.partition("/")
    if protocol.lower() not in ("", "tcp", "udp"):
        raise BadRequest(f"{text!r}: {protocol!r} is no protocol; use tcp or udp")
    protocol = protocol.lower()
    matching = [p for p in there if protocol in ("", p.protocol)]
    exact = [p for p in matching if str(p.number) == identifier] or [p for p in matching if identifier in p.names]
    if exact:
        return Port(local, exact[0].number, exact[0].protocol)
    if not colon and len(matching) == 1:
        return Port(local, matching[0].number, matching[0].protocol)
    if identifier.isdecimal() and (colon or not matching):
        return Port(local, _number(identifier, "the container's port"), protocol or "tcp")
    raise BadRequest(f"{text!r} names no port of {container}; its ports are: {_listed(there)}; use LOCAL:ID")


def listening(ports: Iterable[Port], container: Object) -> list[Object]:
    """Return what the agent has to listen on: the engaged ports, and those that the kubelet probes, with the probes' paths."""
    found = {(port.remote, port.protocol): set[str]() for port in ports}
    numbers = {str(port.get("name")): int(port["containerPort"]) for port in container.get("ports") or []}
    for probe in PROBES:
        check = container.get(probe) or {}
        for way in ("httpGet", "tcpSocket"):
            if way in check:
                port = check[way].get("port")
                number = port if isinstance(port, int) else numbers.get(str(port))
                if number is not None:
                    paths = found.setdefault((number, "tcp"), set())
                    if way == "httpGet":
                        paths.add(str(check[way].get("path") or "/"))
    return [
        {"port": number, "protocol": protocol, "probes": sorted(paths)} for (number, protocol), paths in found.items()
    ]


def redirecting(ports: Iterable[Port], containers: Iterable[Object]) -> list[Object]:
    """Return what the agent has to redirect, with the probes' paths, which stay with the application."""
    probed: dict[tuple[int, str], Object] = {}
    for container in containers:
        probed |= {(one["port"], one["protocol"]): one for one in listening((), container)}
    return [
        {"port": port.remote, "protocol": port.protocol, "probes": probed[key]["probes"] if key in probed else []}
        for port in ports
        for key in [(port.remote, port.protocol)]
    ]


def is_answerable(probe: Object) -> bool:
    """Whether an agent can answer a probe in its container's place: it connects, or asks by plain HTTP."""
    if "exec" in probe or "grpc" in probe:
        return False
    return str((probe.get("httpGet") or {}).get("scheme") or "HTTP").upper() == "HTTP"


def needs_template(container: Object) -> str | None:
    """Return why an agent cannot take the container's place by its image alone; None if it can."""
    if container.get("command"):
        return "it has a command of its own"
    for probe in PROBES:
        if not is_answerable(container.get(probe) or {}):
            return f"its {probe} is one that only it can answer"
    return None
