"""What each command does, by the Python API."""

from __future__ import annotations

from orchestrator import api
from orchestrator.cli import engaging, output
from orchestrator.cli.parser import Invocation, UsageError
from orchestrator.engine import Engine
from orchestrator.progress import Reporter
from telewire import __version__
from telewire.errors import TeleError, Unavailable


def run(invocation: Invocation) -> int:
    """Carry out a command; return the exit code."""
    options = invocation.options
    reporter = Reporter("quiet" if options.output != "default" else options.progress)
    return {
        "connect": _connect,
        "quit": _quit,
        "status": _status,
        "list": _list,
        "curl": _curl,
        "docker-run": _docker_run,
        "replace": _engage,
        "intercept": _engage,
        "wiretap": _engage,
        "ingest": _engage,
        "leave": _leave,
        "version": _version,
    }[invocation.command](invocation, reporter)


def _chosen(invocation: Invocation, reporter: Reporter) -> api.Connection:
    return api.choose(api.connections(reporter=reporter), invocation.options.use)


def _connect(invocation: Invocation, reporter: Reporter) -> int:
    options = invocation.options
    if not options.docker:
        raise UsageError("the daemon runs in a container only: `telepresence connect --docker`")
    if options.use:
        raise UsageError("--use chooses among connections that are there; name the one to make with --name")
    asked = api.Options(
        options.name, options.namespace, options.context, options.kubeconfig, options.hostname, tuple(options.expose)
    )
    connection, there = api.connect_with(asked, Engine(), reporter)
    verb = "Connected" if there.made else "Already connected"
    text = f"{verb} to context {there.context}, namespace {there.namespace} ({there.server})"
    if not invocation.rest:
        control = connection.control
        output.emit(output.status_data(connection.name, control.status(), None, control.port), options.output, text)
        return 0
    reporter.note(text)
    return _while_connected(connection, invocation.rest, there.made)


def _while_connected(connection: api.Connection, command: list[str], made: bool) -> int:
    """Run a command on this machine; disconnect afterwards if this call had connected."""
    from orchestrator import process

    try:
        return process.foreground(command).code
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error.strerror}") from None
    finally:
        if made:
            for failure in connection.quit():
                connection.reporter.note(f"telepresence: left behind: {failure}")


def _quit(invocation: Invocation, reporter: Reporter) -> int:
    options = invocation.options
    found = api.connections(reporter=reporter)
    if not found:
        output.emit({"connections": []}, options.output, "Not connected")
        return 0
    chosen = found if options.stop_daemons and not options.use else [api.choose(found, options.use)]
    failed = []
    for connection in chosen:
        failed += connection.quit()
    data = {"connections": [connection.name for connection in chosen], "left": failed}
    output.emit(data, options.output, "" if failed else "Disconnected")
    if failed:
        raise TeleError(f"not all is removed: {'; '.join(failed)}")
    return 0


def _status(invocation: Invocation, reporter: Reporter) -> int:
    options = invocation.options
    found = api.connections(reporter=reporter)
    if options.use:
        found = [api.choose(found, options.use)]
    if not found:
        data = output.status_data(None, None, None)
        output.emit(data, options.output, api.NOT_CONNECTED.capitalize())
        return 0
    each = []
    for connection in found:
        try:
            control = connection.control
            each.append(output.status_data(connection.name, control.status(), None, control.port))
        except TeleError as error:
            each.append(output.status_data(connection.name, None, str(error)))
    shown: object = each[0] if len(each) == 1 else {"connections": each}
    output.emit(shown, options.output, "\n".join(output.status_text(one) for one in each))
    return 0


def _list(invocation: Invocation, reporter: Reporter) -> int:
    connection = _chosen(invocation, reporter)
    connection.ready()
    options = invocation.options
    only = [key for key in ("intercepts", "ingests", "replacements", "wiretaps") if getattr(options, key)]
    found = output.list_data(connection.workloads(), connection.engagements(), only)
    output.emit(found, options.output, output.list_text(found))
    return 0


def _curl(invocation: Invocation, reporter: Reporter) -> int:
    return _chosen(invocation, reporter).curl(invocation.rest)


def _docker_run(invocation: Invocation, reporter: Reporter) -> int:
    return _chosen(invocation, reporter).run(invocation.rest)


def _engage(invocation: Invocation, reporter: Reporter) -> int:
    return engaging.engage(invocation, lambda: _chosen(invocation, reporter))


def _leave(invocation: Invocation, reporter: Reporter) -> int:
    return engaging.leave(invocation, _chosen(invocation, reporter))


def _version(invocation: Invocation, reporter: Reporter) -> int:
    data: dict[str, object] = {"client": __version__}
    lines = [f"{'Client':<20}: v{__version__}"]
    daemons = {}
    try:
        for connection in api.connections(reporter=reporter):
            daemons[connection.name] = connection.status()["version"]
            lines.append(f"{'Daemon in container':<20}: v{daemons[connection.name]} ({connection.name})")
    except TeleError as error:
        lines.append(f"{'Daemon in container':<20}: unknown, {error}")
        data["error"] = str(error)
    data["daemons"] = daemons
    output.emit(data, invocation.options.output, "\n".join(lines))
    return 0
