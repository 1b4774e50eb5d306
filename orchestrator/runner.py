"""Run a container on the connection's network, with everything else as ``docker run`` has it.

``docker create``, network connect, ``docker start --attach``: the sequence that keeps the user's own networks, published
ports, terminal, signals and exit codes on every engine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator import dockerflags, environment, images, network, ports, process
from orchestrator.dockerflags import DockerRun
from orchestrator.engine import Engine, docker_command
from orchestrator.model import Status
from orchestrator.progress import Reporter
from telewire.errors import BadRequest, NotFound, TeleError, Unavailable

NOT_STARTED = 125
"""Exit code when no container was run, as ``docker run`` has it."""


class NotCreatedError(TeleError):
    """Docker's command refused to create the container."""

    code = "bad-request"


@dataclass
class Created:
    """A container that was created on the connection's network and not started yet."""

    id: str
    run: DockerRun
    status: Status = field(repr=False)


def check(engine: Engine, run: DockerRun, reporter: Reporter, connection: str, image: bool = True) -> None:
    """Check everything that can be checked before anything is made: options, terminal, name, ports, image.

    :param image: whether the image is to be there or to be pulled; else it is built later
    :raises TeleError: one line on what is wrong
    """
    docker_command()
    if run.true("help"):
        raise BadRequest("--help is no flag of a container; see `docker run --help`")
    if run.value("attach") is not None:
        raise BadRequest("-a/--attach cannot be chosen: output is attached always, input with -i; leave it out")
    for chosen in dockerflags.networks(run):
        if chosen in ("host", "none") or chosen.startswith("container:"):
            raise BadRequest(
                f"--network {chosen} leaves no place for the connection's network; leave it out, or name a bridge network"
            )
    if run.true("interactive") and run.true("tty") and not run.true("detach") and not sys.stdin.isatty():
        raise BadRequest("the input device is not a TTY; leave out -t")
    if name := run.value("name"):
        check_name(engine, name)
    for wanted in dockerflags.published(run):
        ports.check_free(engine, wanted)
    try:
        environment.names_given([], run.values("env-file"))
    except OSError as error:
        raise NotFound(f"the --env-file {error.filename} cannot be read: {error.strerror}") from None
    if image:
        images.ensure(
            engine,
            run.image,
            reporter,
            "build it (`docker build -t NAME …`) or check its name",
            run.value("pull") or "missing",
            run.value("platform"),
        )
    network.gateway(engine, connection)


def check_name(engine: Engine, name: str) -> None:
    """Check that no container has this name.

    :raises BadRequest: one has
    """
    try:
        engine.inspect(name)
    except NotFound:
        return
    raise BadRequest(f"there is a container {name} already; remove it (`docker rm -f {name}`) or give another --name")


def create(
    engine: Engine,
    connection: str,
    status: Status,
    run: DockerRun,
    labels: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Created:
    """Create the container and attach it to the connection's network; nothing is left if that fails.

    :param variables: environment variables besides the user's, which win
    :param extra: further arguments of ``docker create``
    """
    given = environment.names_given(run.values("env"), run.values("env-file"))
    transport = environment.plan(variables or {}, given)
    if transport.dropped and reporter:
        reporter.note(f"left out, for Docker cannot carry their bytes: {', '.join(transport.dropped)}")
    file = transport.open_file()
    ours = [f"--label={key}={value}" for key, value in labels.items()]
    ours += _resolver(network.gateway(engine, connection), status, run)
    ours += [*extra, *transport.arguments]
    if file is not None:
        ours.append(f"--env-file=/dev/fd/{file}")
    try:
        child = subprocess.Popen(
            [docker_command(), "create", *run.create_arguments(ours)],
            env={**os.environ, **transport.inherited},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[file] if file is not None else [],
        )
    finally:
        if file is not None:
            os.close(file)
    output, errors = _finish(engine, child)
    said = errors.decode(errors="replace")
    if child.returncode:
        raise NotCreatedError(f"Docker refused to create the container: {_reason(said)}")
    if reporter and said.strip():
        reporter.note(said.strip())
    container = output.decode().strip().splitlines()[-1]
    try:
        if connection not in dockerflags.networks(run):
            with engine.told(f"attaching the container to the network {connection}"):
                engine.api.connect_container_to_network(container, connection)
    except BaseException:
        engine.remove_container(container)
        raise
    return Created(container, run, status)


def _finish(engine: Engine, child: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Wait for ``docker create``; when we are told to stop meanwhile, what it made is removed."""
    with child:
        try:
            engine.api  # noqa: B018 - its import takes as long as the child does
            return child.communicate()
        except BaseException:
            output, _ = child.communicate()
            for container in output.decode().split():
                engine.remove_container(container)
            raise


def start_detached(engine: Engine, created: Created) -> None:
    """Start the container and leave it alone."""
    try:
        with engine.told("starting the container"):
            engine.api.start(created.id)
    except TeleError as error:
        raise Unavailable(f"{error}; the container {created.id[:12]} stays as `docker run` leaves it") from None


def start_attached(
    engine: Engine,
    created: Created,
    started: Callable[[], object] | None = None,
    ending: Callable[[], object] | None = None,
) -> int:
    """Start the container in the foreground; return the exit code that ``docker run`` would give."""
    interactive = created.run.true("interactive")
    command = [docker_command(), "start", "--attach"]
    if interactive:
        command.append("--interactive")
    if keys := created.run.value("detach-keys"):
        command.append(f"--detach-keys={keys}")
    passes = created.run.true("sig-proxy", True)

    def deliver(number: int) -> None:
        if passes:
            # Gone, or not running yet: there is nothing to tell.
            with contextlib.suppress(TeleError), engine.told("passing on a signal"):
                engine.api.kill(created.id, number)

    raw = interactive and created.run.true("tty") and sys.stdin.isatty()
    since = int(time.time()) - 1
    # A raw terminal sends no signals, and Docker's command must be in its foreground group to read it.
    ended = process.foreground([*command, created.id], deliver, interactive, not raw, started, ending)
    return ended.code if ended.code != 1 else _one(engine, created.id, since, ended.errors)


def _one(engine: Engine, container: str, since: int, errors: str) -> int:
    """Tell exit code 1 of the container from a container that was never started, as ``docker run`` does."""
    with engine.told("asking what became of the container"):
        events = engine.api.events(
            since=since,
            until=int(time.time()) + 1,
            filters={"container": container, "event": "start"},
            decode=True,
        )
        if any(True for _ in events):
            return 1
    if any(sign in errors for sign in ("executable file not found", "no such file or directory")):
        return 127
    if any(sign in errors for sign in ("permission denied", "is a directory", "not a directory")):
        return 126
    return NOT_STARTED


def _resolver(gateway: str, status: Status, run: DockerRun) -> list[str]:
    """Return the flags by which the container resolves names as a pod does; what the user gives wins.

    No ``ndots``: where it is set, Docker's own DNS answers names without a dot itself, with nothing. The daemon applies the search list
    to whatever comes to it.
    """
    flags = []
    if not run.values("dns"):
        flags.append(f"--dns={gateway}")
    if not run.values("dns-search"):
        flags += [f"--dns-search={domain}" for domain in status["dns"]["search"]]
    return flags


def _reason(said: str) -> str:
    """Return what matters of the error output of Docker's command, as one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("See 'docker", "Run 'docker", "Usage:", "WARNING"))]
    text = " ".join(kept or lines) or "it said nothing"
    return text.removeprefix("docker: ").removeprefix("Error response from daemon: ")
