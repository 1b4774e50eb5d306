"""``--to-pod``: the handler's ``localhost:PORT`` leads to the pod's, by a helper in the handler's network namespace."""

from __future__ import annotations

import time

from orchestrator import daemon
from orchestrator.engine import Engine
from orchestrator.model import Engagement, ToPod
from telewire import names
from telewire.errors import NotFound, Unavailable

READY = "ready"
"""What the helper says when it listens."""
_PATIENCE = 20.0


def start(engine: Engine, connection: str, engagement: Engagement, handler: str) -> None:
    """Start the helper beside a handler that runs; return when it listens.

    :param handler: the handler's container
    :raises Unavailable: it cannot listen, with its reason
    """
    remove(engine, connection, engagement)
    labels = {names.LABEL_ENGAGEMENT: engagement["id"]}
    with engine.told("making the helper for --to-pod"):
        container = engine.api.create_container(
            names.image("daemon"),
            entrypoint=["/usr/bin/python3", "-I", "-m", "teledaemon.forward"],
            command=[_argument(item) for item in engagement.get("to_pod") or []],
            host_config=engine.api.create_host_config(
                network_mode=f"container:{handler}", cap_drop=["ALL"], security_opt=["no-new-privileges"]
            ),
            labels=daemon.labels(connection, names.ROLE_TOOL, labels),
        )["Id"]
        engine.api.start(container)
    deadline = time.monotonic() + _PATIENCE
    while True:
        state = engine.inspect(container)["State"]
        with engine.told("reading what the helper for --to-pod says"):
            said = engine.api.logs(container).decode(errors="replace").strip()
        if READY in said.splitlines():
            return
        if not state["Running"] or time.monotonic() > deadline:
            why = said.splitlines()[-1] if said else f"exit code {state['ExitCode']}"
            raise Unavailable(f"--to-pod does not work: {why}; the handler itself may have that port")
        time.sleep(0.05)


def remove(engine: Engine, connection: str, engagement: Engagement) -> None:
    """Remove the helpers of an engagement, whatever state they are in."""
    for helper in engine.containers(connection, names.ROLE_TOOL, engagement=engagement["id"]):
        try:
            engine.remove_container(helper["Id"])
        except NotFound:
            continue


def _argument(item: ToPod) -> str:
    """Return what the helper is to do for one port."""
    host = f"[{item['address']}]" if ":" in item["address"] else item["address"]
    return f"{item['port']}/{item['protocol']}={host}:{item['forward']}"
