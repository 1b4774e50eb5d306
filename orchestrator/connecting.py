"""Establish a connection, or find that it is there; whatever fails, nothing is left half made."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from dataclasses import dataclass

from orchestrator import apiserver, cleanup, credentials, daemon, images, kubeconfig, lock, network
from orchestrator.control import Control, NoAnswerError
from orchestrator.engine import Engine
from orchestrator.execplugin import Credentials
from orchestrator.model import Status
from orchestrator.progress import Reporter
from orchestrator.undo import Undo
from telewire import names
from telewire.errors import Conflict, NotFound, TeleError, Unavailable


@dataclass(frozen=True)
class Options:
    """What ``connect`` is told."""

    name: str | None = None
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    hostname: str | None = None
    expose: tuple[str, ...] = ()


@dataclass(frozen=True)
class Established:
    """A connection: its name, where it leads to in the kubeconfig's own words, and whether this call made it."""

    name: str
    context: str
    namespace: str
    server: str
    made: bool


def establish(options: Options, engine: Engine, reporter: Reporter) -> Established:
    """Connect, or find that the connection is there."""
    context = kubeconfig.load(options.kubeconfig, options.context, options.namespace)
    server = context.server
    name = names.safe_name(options.name or f"{context.name}-{context.namespace}")
    with lock.held(name, lambda: reporter.note(f"Waiting for another command that is busy with connection {name}")):
        if _is_up(engine, name, context, options):
            return Established(name, context.name, context.namespace, server, False)
        engine.require_plugin(names.TELEROUTE_PLUGIN)
        engine.require_plugin(names.TELEMOUNT_PLUGIN)
        network.require_name(engine, name)
        require_image(engine, reporter)
        if name in cleanup.known(engine):
            with reporter.step(f"Removing what is left of the dead connection {name}"):
                _remove_remains(engine, name)
        given = context.credentials(interactive=True)
        with Undo() as undo, reporter.step(f"Connecting to context {context.name} ({server})"):
            control, container = start(engine, name, context, options.hostname, options.expose, undo)
            status = _connect(control, request(engine, name, context, given), context.name, server)
            undo.add("traces in the cluster", lambda: control.quit(timeout=60))
            inspected = engine.inspect(container)
            created = network.create(engine, name, status, inspected, control.token)
            undo.add(f"network {name}", lambda: network.remove(engine, created))
            if given:
                credentials.spawn(control, context, given)
            undo.keep()
        return Established(name, context.name, context.namespace, server, True)


def _connect(control: Control, body: dict[str, object], context: str, server: str) -> Status:
    """Have the daemon connect; an error names the API server as the user knows it.

    A refusal leaves nothing in the cluster, that is the daemon's part; when we stop waiting, it is told to clean up.
    """
    try:
        return control.connect(body)
    except NoAnswerError:
        raise
    except TeleError as error:
        if server not in str(error):
            error.args = (f"cannot connect to context {context} ({server}): {error}",)
        raise
    except BaseException:
        with contextlib.suppress(TeleError):  # the container goes next; the next `connect` finds what it left
            control.quit(timeout=30)
        raise


def start(
    engine: Engine,
    name: str,
    context: kubeconfig.KubeContext,
    hostname: str | None,
    expose: tuple[str, ...],
    undo: Undo,
) -> tuple[Control, str]:
    """Start a daemon that can reach the context's API server; return its control API and its container.

    The way to the API server replaces the context's own ``cluster``.
    """
    route = apiserver.find(context.cluster, engine.all_containers(), engine.all_networks())
    labels = {
        names.LABEL_CONTEXT: context.name,
        names.LABEL_NAMESPACE: context.namespace,
        names.LABEL_KUBECONFIG: context.paths,
    }
    context.cluster = route.cluster
    container = daemon.start(engine, name, route, labels, hostname, expose)
    undo.add(f"container {daemon.container_name(name)}", lambda: engine.remove_container(container))
    return daemon.wait(engine, container, name), container


def request(
    engine: Engine,
    name: str,
    context: kubeconfig.KubeContext,
    given: Credentials | None,
    recover_only: bool = False,
) -> dict[str, object]:
    """Return the body of ``POST /v1/connect``."""
    return {
        "name": name,
        "client_id": names.client_id(engine.id, name),
        "owner": {"user": _user(), "host": socket.gethostname()},
        "kubeconfig": context.document(given),
        "namespace": context.namespace,
        "agent_image": names.image("agent"),
        "agent_pull_policy": "IfNotPresent",
        "recover_only": recover_only,
    }


def require_image(engine: Engine, reporter: Reporter) -> None:
    """Have the daemon's image."""
    images.ensure(
        engine,
        names.image("daemon"),
        reporter,
        "build it by `make images` in the project's folder, or set TELEPRESENCE_REGISTRY or TELEPRESENCE_DAEMON_IMAGE",
    )


def _is_up(engine: Engine, name: str, context: kubeconfig.KubeContext, options: Options) -> bool:
    """Return whether the connection is there and healthy.

    :raises Conflict: it is there, but to something else, or the name of its container is taken
    """
    try:
        inspected = engine.inspect(daemon.container_name(name))
    except NotFound:
        return False
    labels = inspected["Config"].get("Labels") or {}
    if labels.get(names.LABEL_CONNECTION) != name:
        raise Conflict(f"there is a container {daemon.container_name(name)} that is not ours; choose another --name")
    if not inspected["State"]["Running"]:
        return False
    try:
        status: Status = daemon.control(inspected, name).status()
        healthy = status["state"] in ("connected", "reconnecting") and bool(engine.networks(name))
    except TeleError:
        return False
    is_there = (labels.get(names.LABEL_CONTEXT), labels.get(names.LABEL_NAMESPACE))
    if healthy and is_there != (context.name, context.namespace):
        raise Conflict(
            f"connection {name} leads to context {is_there[0]}, namespace {is_there[1]}; "
            f"`telepresence quit --use {name}` first, or choose another --name"
        )
    if healthy:
        daemon.same_settings(inspected, options.hostname, options.expose)
    return healthy


def _remove_remains(engine: Engine, name: str) -> None:
    """Remove what a dead connection has in the engine; the cluster is put right by the next daemon."""
    cleanup.stop_handlers(engine, name)
    failed = cleanup.remove(engine, name)
    if failed:
        raise Unavailable(f"remains of the dead connection {name} cannot be removed: {'; '.join(failed)}")


def _user() -> str:
    """Return the user's name, or the number if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
