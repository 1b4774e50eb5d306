"""``replace``, ``intercept``, ``wiretap``, ``ingest``: a workload is engaged as long as a container here runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator import building, daemon, envfiles, handling, portwords, runner
from orchestrator.building import Build
from orchestrator.control import Control
from orchestrator.describing import describe
from orchestrator.dockerflags import DockerRun
from orchestrator.engine import Engine
from orchestrator.model import Engagement, Status
from orchestrator.mounting import Mounts
from orchestrator.progress import Reporter
from orchestrator.undo import Undo
from telewire.errors import BadRequest, NotFound, TeleError

KINDS = ("replace", "intercept", "wiretap", "ingest")
_DONE = {"replace": "Replaced", "intercept": "Intercepted", "wiretap": "Wiretapped", "ingest": "Ingested"}
DEFAULT_PORT = 8080
"""Where ``intercept`` and ``wiretap`` lead to here when no port is given; Telepresence has the same."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}")

Tell = Callable[[Engagement, Mapping[str, str]], object]
"""What is called with an engagement that has begun and with the environment that its handler gets."""


@dataclass(frozen=True)
class Engage:
    """What an engagement is told.

    :ivar workload: name of the workload
    :ivar handler: the arguments of ``docker run``; with ``build`` its image is the word ``IMAGE``
    :ivar name: the engagement's name, default the workload's
    :ivar container: which of the workload's containers
    :ivar service: which Service, if several lead to the workload (``intercept``, ``wiretap``)
    :ivar ports: ``LOCAL[:ID]``; none: for ``replace`` each port of the container, to the same port here; for
        ``intercept`` and ``wiretap`` the only one, to 8080 here
    :ivar to_pod: ``PORT[/udp]``: the handler's ``localhost:PORT`` leads to the pod's
    :ivar address: where traffic goes if not to the handler: a container on the connection's network, an address, or a
        name in the cluster
    :ivar mounts: how the remote volumes appear in the handler
    :ivar env_file: a file to write the handler's remote environment to, in the syntax ``env_syntax``
    :ivar env_json: a file to write it to as JSON
    :ivar wait_message: printed on stdout when the handler has started
    :ivar build: what to build the handler's image from
    """

    workload: str
    handler: DockerRun
    kind: str = "replace"
    name: str | None = None
    container: str | None = None
    service: str | None = None
    ports: Sequence[str] = ()
    to_pod: Sequence[str] = ()
    address: str | None = None
    mounts: Mounts = field(default_factory=Mounts)
    env_file: str | None = None
    env_json: str | None = None
    env_syntax: str = "docker"
    wait_message: str | None = None
    build: Build | None = None


def engage(
    engine: Engine, control: Control, status: Status, wanted: Engage, reporter: Reporter, tell: Tell | None = None
) -> int:
    """Engage until the handler ends; return its exit code.

    :param tell: called before the handler starts, default a note for people
    :raises TeleError: one line on what is wrong; nothing is left half made
    """
    connection, run = status["name"], wanted.handler
    body = request(wanted)
    if not run.value("name") and (name := _known_name(body)):
        runner.check_name(engine, name)
    runner.check(engine, run, reporter, connection, image=wanted.build is None)
    image = run.image if wanted.build is None else building.build(wanted.build, reporter)
    flags = [*building.flags(wanted.build), *run.flags]
    run = DockerRun(flags, image, list(run.command))
    engine.prepare()
    with Undo() as undo:
        with reporter.step(f"{_DONE[wanted.kind]} {wanted.workload}"):
            engagement = _engage(control, body)
            undo.add(f"engagement {engagement['name']}", lambda: _end(engine, control, connection, engagement["id"]))
            portwords.check_apart(
                ((port["local"], port["protocol"]) for port in engagement["ports"]), map(portwords.pair, wanted.to_pod)
            )
            variables = handling.variables(engagement, wanted.mounts)
            envfiles.write(wanted.env_file, wanted.env_json, wanted.env_syntax, variables)
            created = handling.create(
                engine, connection, status, run, engagement, wanted.mounts, variables, reporter, undo
            )
            engagement = control.until_active(engagement["id"])
        if tell:
            tell(engagement, variables)
        else:
            reporter.note(describe(engagement, wanted.mounts.root, wanted.address))
        if wanted.mounts.enabled and (left_out := engagement.get("not_mounted")):
            reporter.note(f"Not mounted, for only directories can be: {', '.join(left_out)}")
        handler = handling.Handler(engine, control, engagement, created.id, connection, reporter)
        handler.address, handler.message = wanted.address, wanted.wait_message
        undo.add(f"helpers of {engagement['name']}", handler.close)
        code = runner.start_attached(engine, created, handler.announce, handler.stop)
    for failure in undo.failed:
        reporter.note(f"telepresence: left behind: {failure}")
    return code


def request(wanted: Engage) -> dict[str, object]:
    """Return the body of ``POST /v1/engagements``, when all that can be known of it here is right.

    :raises BadRequest: something is malformed, contradictory, or not for this kind of engagement
    """
    kind, run = wanted.kind, wanted.handler
    if kind not in KINDS:
        raise BadRequest(f"there is no engagement of the kind {kind!r}; the kinds are {', '.join(KINDS)}")
    name = wanted.name or wanted.workload
    if not wanted.workload:
        raise BadRequest("the workload's name is empty; see `telepresence list`")
    if not _NAME.fullmatch(name):
        raise BadRequest(f"an engagement cannot be named {name!r}; use letters, digits, `_`, `.` and `-`")
    if kind == "ingest" and wanted.ports:
        raise BadRequest("ingest takes no traffic, so it has no --port; use intercept, wiretap or replace")
    if kind == "ingest" and wanted.address:
        raise BadRequest("ingest takes no traffic, so it has no --address; use intercept, wiretap or replace")
    if kind in ("replace", "ingest") and wanted.service:
        raise BadRequest(f"{kind} takes a container, not a Service; choose with --container, or use intercept")
    if run.true("detach"):
        raise BadRequest(
            "-d/--detach is not possible after `--`: the handler runs in the foreground, and the engagement ends with it"
        )
    if run.value("restart") not in (None, "", "no"):
        raise BadRequest(
            "--restart is not possible after `--`: the handler is removed when it ends (--rm); leave it out"
        )
    ports = [] if kind == "replace" and list(wanted.ports) == ["all"] else portwords.ports(wanted.ports)
    to_pod = portwords.to_pod(wanted.to_pod)
    portwords.check_apart(map(portwords.pair, ports), map(portwords.pair, to_pod))
    handling.check_address(wanted.address)
    envfiles.check(wanted.env_file, wanted.env_json, wanted.env_syntax)
    building.check(wanted.build, run)
    body: dict[str, object] = {
        "kind": kind,
        "workload": wanted.workload,
        "name": name,
        "ports": ports,
        "to_pod": to_pod,
    }
    for key, value in (("container", wanted.container), ("service", wanted.service)):
        if value:
            body[key] = value
    return body


def _known_name(body: Mapping[str, object]) -> str | None:
    """Return the name of the handler's container, if it is known before the daemon has chosen the ports."""
    ports = body["ports"]
    assert isinstance(ports, list)
    if not ports and body["kind"] == "replace":
        return None
    first = portwords.pair(ports[0])[0] if ports else None if body["kind"] == "ingest" else DEFAULT_PORT
    return handling.container_name(str(body["name"]), first)


def _engage(control: Control, body: dict[str, object]) -> Engagement:
    """Start the engagement; when we are told to stop meanwhile, it is ended."""
    try:
        return control.engage(body)
    except TeleError:
        raise
    except BaseException:
        for engagement in control.engagements():
            if engagement["name"] == body["name"] and not engagement["handler"]:
                disengage(control, engagement["id"])
        raise


def disengage(control: Control, engagement: str) -> None:
    """End an engagement; one that the daemon has ended itself is no error."""
    try:
        control.disengage(engagement)
    except NotFound:
        return


def _end(engine: Engine, control: Control, connection: str, engagement: str) -> None:
    """End our engagement, unless ``quit`` in another shell has done that already, and removed the daemon."""
    try:
        disengage(control, engagement)
    except TeleError as error:
        if error.code == "not-connected":
            return
        try:
            engine.inspect(daemon.container_name(connection))
        except NotFound:
            return
        raise
