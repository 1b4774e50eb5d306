"""Carry out ``replace``, ``intercept``, ``wiretap``, ``ingest`` and ``leave``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from orchestrator import api, building, describing, dockerflags, mounting
from orchestrator.cli import output
from orchestrator.cli.parser import Invocation, UsageError
from orchestrator.engaging import request
from orchestrator.model import Engagement
from telewire.errors import BadRequest


def engage(invocation: Invocation, choose: Callable[[], api.Connection]) -> int:
    """Engage as the command line says; return the handler's exit code.

    :param choose: finds the connection, when the command line has been found to be right
    """
    options = invocation.options
    wanted = wish(invocation.command, options, invocation.rest)
    request(wanted)

    def tell(engagement: Engagement, variables: Mapping[str, str]) -> None:
        if options.detailed_output:
            data = describing.whole(engagement, variables, wanted.mounts.root, wanted.address)
        else:
            data = describing.brief(engagement)
        output.emit(data, options.output, "")

    return choose().engage(wanted, tell=None if options.output == "default" else tell)


def wish(kind: str, options: argparse.Namespace, rest: Sequence[str]) -> api.Engage:
    """Return what a command line asks for.

    :param rest: what follows ``--``
    :raises UsageError: no handler is given
    :raises BadRequest: options contradict each other
    """
    ways = [
        option
        for option, given in (
            ("--docker-run", options.docker_run),
            ("--docker-build", options.docker_build is not None),
            ("--docker-debug", options.docker_debug is not None),
        )
        if given
    ]
    if not ways:
        raise UsageError(
            f"a handler is needed: `telepresence {kind} NAME --docker-run -- [docker run flags] IMAGE [args]`"
        )
    if len(ways) > 1:
        raise BadRequest(f"{' and '.join(ways)} exclude each other; leave out all but one")
    build = None
    if options.docker_run:
        if options.docker_build_opt:
            raise BadRequest("--docker-build-opt is for --docker-build and --docker-debug; leave it out, or build")
        handler = dockerflags.parse(rest)
    else:
        debug = options.docker_debug is not None
        context = options.docker_debug if debug else options.docker_build
        build = api.Build(context, tuple(options.docker_build_opt), debug)
        handler = building.placeholder(rest)
    return api.Engage(
        workload=options.workload if options.workload is not None else options.name,
        handler=handler,
        kind=kind,
        name=options.name,
        container=options.container,
        service=getattr(options, "service", None),
        ports=tuple(getattr(options, "port", ())),
        to_pod=tuple(options.to_pod),
        address=getattr(options, "address", None),
        mounts=mounting.parse(options.mount, options.docker_mount),
        env_file=options.env_file,
        env_json=options.env_json,
        env_syntax=options.env_syntax,
        wait_message=options.wait_message,
        build=build,
    )


def leave(invocation: Invocation, connection: api.Connection) -> int:
    """End an engagement."""
    options = invocation.options
    connection.leave(options.name, options.container)
    output.emit({"left": options.name}, options.output, "")
    return 0
