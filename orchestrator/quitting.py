"""End a connection: engagements, the cluster's side, then everything in the engine, whatever of it is dead."""

from __future__ import annotations

import os

from orchestrator import cleanup, connecting, daemon, kubeconfig, lock
from orchestrator.control import Control, NoAnswerError
from orchestrator.engine import Engine
from orchestrator.progress import Reporter
from orchestrator.undo import Undo
from telewire import names
from telewire.errors import NotFound, TeleError


def disconnect(engine: Engine, name: str, reporter: Reporter) -> list[str]:
    """End a connection; return what could not be removed, and why."""
    with lock.held(name, lambda: reporter.note(f"Waiting for another command that is busy with connection {name}")):
        labels = _labels(engine, name)
        failed: list[str] = []
        with reporter.step(f"Disconnected from {labels.get(names.LABEL_CONTEXT, name)}"):
            cleanup.stop_handlers(engine, name)
            cluster_done = False
            if control := _alive(engine, name):
                try:
                    control.quit()
                    cluster_done = True
                except NoAnswerError:
                    pass  # it died in between: the cluster is put right below, as for a dead one
                except TeleError as error:
                    failed.append(f"in the cluster: {error}")
                    cluster_done = True
            failed += cleanup.remove(engine, name)
            if not cluster_done:
                try:
                    _recover(engine, name, labels, reporter)
                except TeleError as error:
                    failed.append(
                        f"in the cluster: {error}; `telepresence connect` with the same options, then `quit`, mends it"
                    )
        return failed


def _labels(engine: Engine, name: str) -> dict[str, str]:
    """Return the labels that say where the connection leads to, from whichever of its parts is still there."""
    found = engine.containers(name, names.ROLE_DAEMON) + engine.networks(name)
    for item in found:
        if (item.get("Labels") or {}).get(names.LABEL_CONTEXT):
            return dict(item["Labels"])
    return {}


def _alive(engine: Engine, name: str) -> Control | None:
    """Return the control API of the connection's daemon if that runs and answers."""
    try:
        control = daemon.control(engine.inspect(daemon.container_name(name)), name)
        status = control.status()
    except TeleError:
        return None
    return control if status["state"] != "idle" else None


def _recover(engine: Engine, name: str, labels: dict[str, str], reporter: Reporter) -> None:
    """Have a fresh daemon put back what a dead one left in the cluster."""
    if names.LABEL_CONTEXT not in labels:
        return
    paths = labels.get(names.LABEL_KUBECONFIG, "")
    environment = {"KUBECONFIG": paths}
    if not any(os.path.exists(path) for path in paths.split(os.pathsep)):
        raise NotFound(f"the kubeconfig {paths} is gone, so what the dead daemon left cannot be put back")
    context = kubeconfig.load(
        context=labels[names.LABEL_CONTEXT], namespace=labels.get(names.LABEL_NAMESPACE), environment=environment
    )
    connecting.require_image(engine, reporter)
    given = context.credentials(interactive=True)
    with Undo() as undo:  # the daemon is for this one thing: it is removed in any case
        control, _ = connecting.start(engine, name, context, None, (), undo)
        control.connect(connecting.request(engine, name, context, given, recover_only=True))
