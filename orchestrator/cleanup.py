"""Remove what a connection has in the engine, by label alone, whatever of it is dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from orchestrator import network
from orchestrator.engine import Engine
from telewire import names
from telewire.errors import Conflict, NotFound, TeleError


def known(engine: Engine) -> list[str]:
    """Return the names of all connections that have anything in the engine."""
    found = [container["Labels"] for container in engine.containers()]
    found += [item.get("Labels") or {} for item in (*engine.networks(), *engine.volumes())]
    return sorted({labels[names.LABEL_CONNECTION] for labels in found})


def stop_handlers(engine: Engine, connection: str) -> None:
    """Stop the connection's running handlers and tools in order, so that they can end what they do."""
    for role in (names.ROLE_HANDLER, names.ROLE_TOOL):
        for container in engine.containers(connection, role):
            if container["State"] == "running":
                engine.stop(container["Id"])


def remove(engine: Engine, connection: str) -> list[str]:
    """Remove the connection's containers, networks and volumes; return what could not be removed, and why."""
    failed: list[str] = []

    def attempt(what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except TeleError as error:
            failed.append(f"{what}: {error}")

    mounted = {
        str(mount["Name"])
        for container in engine.containers(connection, names.ROLE_HANDLER)
        for mount in container.get("Mounts") or []
        if mount.get("Driver") == names.TELEMOUNT_PLUGIN
    }
    for role in (names.ROLE_HANDLER, names.ROLE_TOOL):
        for container in engine.containers(connection, role):
            identity = container["Id"]
            attempt(f"container {container['Names'][0][1:]}", partial(engine.remove_container, identity))
    for item in engine.networks(connection):
        identity = item["Id"]
        attempt(f"network {item['Name']}", partial(network.remove, engine, identity))
    failed += remove_volumes(engine, connection)
    if mounted and (reason := _unlisted(engine)):
        failed.append(f"volumes {', '.join(sorted(mounted))}: {reason}")
    for container in engine.containers(connection, names.ROLE_DAEMON):
        identity = container["Id"]
        attempt(f"container {container['Names'][0][1:]}", partial(engine.remove_container, identity))
    return failed


def _unlisted(engine: Engine) -> str | None:
    """Return why Docker does not list Telemount's volumes, if it does not: they come back with the plugin."""
    try:
        engine.require_plugin(names.TELEMOUNT_PLUGIN)
    except TeleError as error:
        return f"{error}, then `telepresence quit` again"
    return None


def remove_volumes(engine: Engine, connection: str, **labels: str) -> list[str]:
    """Remove the connection's volumes (of one ``engagement`` if given); return what could not be removed, and why."""
    failed = []
    for volume in engine.volumes(connection, **labels):
        try:
            remove_volume(engine, volume["Name"])
        except TeleError as error:
            failed.append(f"volume {volume['Name']}: {error}")
    return failed


def remove_volume(engine: Engine, name: str, seconds: float = 10.0) -> None:
    """Remove a volume; one that a container still holds while it is being removed is tried again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with engine.told(f"removing the volume {name}"):
                engine.api.remove_volume(name)
        except NotFound:
            return
        except Conflict:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
