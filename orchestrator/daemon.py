"""Start the daemon's container: what it is given, and waiting until its control API answers."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.apiserver import HOST_ALIAS, Route
from orchestrator.control import Control, NoAnswerError
from orchestrator.engine import Engine
from telewire import names
from telewire.errors import BadRequest, Conflict, TeleError, Unavailable

TOKEN_VARIABLE = "TELEPRESENCE_TOKEN"
START_TIMEOUT = 30.0
"""Seconds until the control API must answer."""

_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.accept_local": "1",
    "net.ipv4.conf.default.accept_local": "1",
}
_SYSCTLS_IF_KNOWN = {
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.all.forwarding": "1",
}
"""Left out where the kernel does not have them: no bridge module loaded, or no IPv6."""


def container_name(connection: str) -> str:
    """Return the name of a connection's daemon container."""
    return f"tp-{connection}"


def labels(connection: str, role: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the labels by which a thing of ours is found again."""
    return {names.LABEL_CONNECTION: connection, names.LABEL_ROLE: role, **(more or {})}


def start(
    engine: Engine,
    connection: str,
    route: Route,
    more_labels: Mapping[str, str],
    hostname: str | None = None,
    expose: Sequence[str] = (),
) -> str:
    """Create and start the daemon's container; return its ID. Nothing is left if it fails.

    :param route: how the API server is reached
    :param expose: further ports to publish, as ``docker run -p`` takes them
    :raises Conflict: the container's name is taken
    """
    name = container_name(connection)
    try:
        bindings = _bindings(expose)
    except ValueError as error:
        raise BadRequest(f"--expose is to be written as `docker run -p` takes it: {error}") from None
    bindings[f"{names.CONTROL_PORT}/tcp"] = ("127.0.0.1", None)
    left_out: set[str] = set()
    while True:
        sysctls = {**_SYSCTLS, **{key: value for key, value in _SYSCTLS_IF_KNOWN.items() if key not in left_out}}
        with engine.told(f"creating the daemon's container {name}"):
            host_config = engine.api.create_host_config(
                cap_drop=["ALL"],
                cap_add=["NET_ADMIN"],
                devices=["/dev/net/tun:/dev/net/tun:rwm"],
                sysctls=sysctls,
                port_bindings=bindings,
                security_opt=["no-new-privileges"],
                extra_hosts={HOST_ALIAS: "host-gateway"} if route.host_gateway else None,
            )
            container = engine.api.create_container(
                names.image("daemon"),
                name=name,
                hostname=hostname,
                host_config=host_config,
                ports=[tuple(str(key).split("/")) if "/" in str(key) else key for key in bindings],
                labels=labels(connection, names.ROLE_DAEMON, more_labels),
                environment={TOKEN_VARIABLE: secrets.token_urlsafe(32)},
            )["Id"]
        try:
            if route.network:
                with engine.told(f"attaching the daemon's container to the network {route.network}"):
                    engine.api.connect_container_to_network(container, route.network)
            with engine.told(f"starting the daemon's container {name}"):
                engine.api.start(container)
        except TeleError as error:
            engine.remove_container(container)
            unknown = {key for key in _SYSCTLS_IF_KNOWN if _mentions(str(error), key)} - left_out
            if not unknown:
                raise
            family = [
                key for key in _SYSCTLS_IF_KNOWN if any(key.split(".")[1] == bad.split(".")[1] for bad in unknown)
            ]
            left_out.update(family)
        except BaseException:
            engine.remove_container(container)
            raise
        else:
            return str(container)


def _bindings(expose: Sequence[str]) -> dict[int | str, Any]:
    """Return the port bindings for ``docker run -p`` texts."""
    from docker.utils.ports import build_port_bindings

    return dict(build_port_bindings(list(expose))) if expose else {}


def _mentions(text: str, sysctl: str) -> bool:
    """Return whether an error of the engine speaks of a sysctl, by its name or its file."""
    return sysctl in text or sysctl.replace(".", os.sep) in text


def control(inspected: Mapping[str, Any], connection: str) -> Control:
    """Return the control API of a daemon's container that runs.

    :raises Unavailable: it publishes no control port, so it does not run
    """
    published = (inspected["NetworkSettings"].get("Ports") or {}).get(f"{names.CONTROL_PORT}/tcp")
    token = next(
        (
            entry.partition("=")[2]
            for entry in inspected["Config"].get("Env") or []
            if entry.startswith(TOKEN_VARIABLE + "=")
        ),
        "",
    )
    if not published or not token:
        raise Unavailable(
            f"the daemon of connection {connection} does not run; `telepresence connect --docker` mends it, "
            "`telepresence quit` cleans up"
        )
    return Control(int(published[0]["HostPort"]), token, connection)


def wait(engine: Engine, container: str, connection: str) -> Control:
    """Wait until the control API answers.

    :raises Unavailable: the container ended, or did not answer in time
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        inspected = engine.inspect(container)
        state = inspected["State"]
        if not state["Running"]:
            raise Unavailable(
                f"the daemon's container ended at once with exit code {state['ExitCode']}{last_words(engine, container)}; "
                f"check the image {names.image('daemon')}"
            )
        found = control(inspected, connection)
        try:
            found.status(timeout=5)
        except NoAnswerError as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the daemon did not answer within {START_TIMEOUT:.0f} s{last_words(engine, container)}; "
                    f"see `docker logs {container_name(connection)}`"
                ) from error
            time.sleep(0.03)
        else:
            return found


def last_words(engine: Engine, container: str) -> str:
    """Return the last line of a container's log as part of a sentence."""
    with engine.told("reading the daemon's log"):
        text = engine.api.logs(container, tail=5).decode(errors="replace").strip()
    return f" ({text.splitlines()[-1].strip()})" if text else ""


def address(inspected: Mapping[str, Any]) -> str:
    """Return the daemon's address on the engine's default network, where both plugins reach it.

    :raises Unavailable: the engine gave it none
    """
    found = inspected["NetworkSettings"]["Networks"].get("bridge", {}).get("IPAddress")
    if not found:
        raise Unavailable("the daemon's container has no address on Docker's default bridge, which the plugins need")
    return str(found)


def same_settings(inspected: Mapping[str, Any], hostname: str | None, expose: Sequence[str]) -> None:
    """Check that a daemon that runs has the hostname and the ports that are asked for now.

    :raises Conflict: it has others
    """
    has = set(inspected["HostConfig"].get("PortBindings") or {}) - {f"{names.CONTROL_PORT}/tcp"}
    wants = {str(key) if "/" in str(key) else f"{key}/tcp" for key in _bindings(expose)}
    if wants and wants != has:
        raise Conflict("exposed ports differ from the running connection's; `telepresence quit` and connect again")
    if hostname and hostname != inspected["Config"].get("Hostname"):
        raise Conflict("the hostname differs from the running connection's; `telepresence quit` and connect again")
