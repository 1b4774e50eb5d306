"""Read the command line: global options, the command, its options, what follows ``--``.

Only the parser of the command that was asked for is made. An option that is not built is refused as unknown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from orchestrator.cli import engageoptions
from orchestrator.progress import MODES
from telewire import __version__
from telewire.errors import BadRequest

OUTPUTS = ("default", "json", "yaml")


class UsageError(BadRequest):
    """The command line cannot be understood."""


@dataclass
class Invocation:
    """One command line.

    :ivar rest: what follows ``--``, or all that follows ``curl`` and ``docker-run``
    :ivar failure: exit code for our own failures: 125 where the exit code is otherwise a container's
    """

    command: str
    options: argparse.Namespace
    rest: list[str] = field(default_factory=list)
    failure: int = 1
    debug: bool = False


class _Parser(argparse.ArgumentParser):
    """argparse, with errors as one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            words = message.removeprefix("unrecognized arguments: ").split(" ")
            kind = "option" if words[0].startswith("-") else "argument"
            message = f"unknown {kind} {words[0]}"
        raise UsageError(f"{message}; see `{self.prog} --help`")


def _globals(parser: argparse.ArgumentParser, default: object = None) -> None:
    """Add the options that stand before or after the command."""
    suppress = default is argparse.SUPPRESS
    group = parser.add_argument_group("global options")

    def add(*names: str, value: object, **keywords: object) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS if suppress else value, **keywords)  # type: ignore[arg-type]

    add("--output", value="default", choices=OUTPUTS, help="format of what goes to stdout (default: default)")
    add("--progress", value="auto", choices=MODES, help="progress on stderr (default: auto, when a person watches)")
    add("--use", value=None, metavar="NAME", help="the connection: its name, or a regular expression that matches one")
    add("--debug", value=False, action="store_true", help="show the Python trace of an error")


def _connect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--docker", action="store_true", help="run the daemon in a container (required)")
    parser.add_argument("--name", help="the connection's name (default: <context>-<namespace>)")
    parser.add_argument("-n", "--namespace", help="the connected namespace (default: the context's)")
    parser.add_argument("--context", help="the kubeconfig context (default: the current one)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig (default: what KUBECONFIG says)")
    parser.add_argument("--hostname", help="hostname of the daemon's container")
    parser.add_argument(
        "--expose",
        action="append",
        default=[],
        metavar="PORTS",
        help="publish a port of the daemon, as `docker run -p`",
    )


def _quit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--stop-daemons", action="store_true", help="end all connections")


def _leave(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the engagement, or its workload")
    parser.add_argument("-c", "--container", help="the remote container, if several engagements fit")


def _list(parser: argparse.ArgumentParser) -> None:
    for short, kind in (("i", "intercepts"), ("g", "ingests"), ("r", "replacements"), ("t", "wiretaps")):
        parser.add_argument(f"-{short}", f"--{kind}", action="store_true", help=f"only workloads with {kind}")


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Add no options."""


@dataclass(frozen=True)
class _Command:
    help: str
    usage: str
    options: Callable[[argparse.ArgumentParser], None] = _nothing
    verbatim: bool = False
    rest: bool = False
    failure: int = 1


def _engage(kind: str, text: str) -> _Command:
    usage = f"{kind} NAME --docker-run [options] -- [docker run flags] IMAGE [ARGS…]"
    return _Command(text, usage, partial(engageoptions.add, kind=kind), rest=True, failure=125)


COMMANDS = {
    "connect": _Command("connect to a cluster", "connect --docker [options] [-- COMMAND [ARGS…]]", _connect, rest=True),
    "quit": _Command("end a connection and leave nothing behind", "quit [options]", _quit),
    "status": _Command("show the connections", "status [options]"),
    "list": _Command("list the workloads of the connected namespace", "list [options]", _list),
    "curl": _Command(
        "run curl in the cluster's network", "curl ARGS… (all of them are curl's)", verbatim=True, failure=125
    ),
    "docker-run": _Command(
        "run any container in the cluster's network",
        "docker-run [docker run flags] IMAGE [ARGS…]",
        verbatim=True,
        failure=125,
    ),
    "replace": _engage("replace", "replace a workload's container by one on this machine"),
    "intercept": _engage("intercept", "answer a workload's traffic by a container on this machine"),
    "wiretap": _engage("wiretap", "copy a workload's traffic to a container on this machine"),
    "ingest": _engage("ingest", "run a container on this machine with a workload's environment and volumes"),
    "leave": _Command("end an engagement", "leave NAME [options]", _leave),
    "version": _Command("show the versions of all parts", "version [options]"),
}


def parse(words: Sequence[str]) -> Invocation | None:
    """Read a command line; None when it asked for help, which has been printed.

    :raises UsageError: it cannot be understood
    """
    top = _Parser(prog="telepresence", add_help=False, allow_abbrev=False)
    _globals(top)
    before, name, after = _split(words)
    if name is None and ("-h" in before or "--help" in before or not before):
        print(_overview())
        return None
    if name is None and "--version" in before:
        print(f"telepresence {__version__}")
        return None
    options = top.parse_args(before)
    if name is None:
        raise UsageError("no command is given; see `telepresence --help`")
    if name == "help":
        if after and after[0] in COMMANDS and not COMMANDS[after[0]].verbatim:
            return parse([after[0], "--help"])
        _print_help(after)
        return None
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"unknown command {name!r}{_nearest(name)}; see `telepresence --help`")
    found = Invocation(name, options, failure=command.failure, debug=options.debug)
    if command.verbatim:
        if after[:1] in (["--help"], ["-h"]) and name != "curl":
            _print_help([name])
            return None
        found.rest = after
        return found
    own = after
    if command.rest and "--" in after:
        at = after.index("--")
        own, found.rest = after[:at], after[at + 1 :]
    parser = _Parser(
        prog=f"telepresence {name}",
        usage=f"telepresence {command.usage}",
        description=command.help,
        allow_abbrev=False,
        add_help=False,
    )
    command.options(parser)
    _globals(parser, argparse.SUPPRESS)
    if "-h" in own or "--help" in own:
        parser.print_help()
        return None
    parser.parse_args(own, options)
    found.debug = options.debug
    return found


def _split(words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Split into what stands before the command, the command, and what follows it."""
    valued = {"--output", "--progress", "--use"}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in valued else 1
    if at >= len(words):
        return list(words), None, []
    return list(words[:at]), words[at], list(words[at + 1 :])


def _nearest(name: str) -> str:
    """Return a question whether a known command was meant."""
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _print_help(names: Sequence[str]) -> None:
    """Print the help of a command whose arguments are not ours, or the overview."""
    command = COMMANDS.get(names[0]) if names else None
    print(f"usage: telepresence {command.usage}\n\n{command.help}" if command else _overview())


def _overview() -> str:
    """Return the help of the whole."""
    width = max(map(len, COMMANDS))
    lines = ["usage: telepresence [global options] COMMAND …", ""]
    lines += ["Run a container as if it ran inside a Kubernetes cluster.", ""]
    lines += ["commands:"]
    lines += [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    lines += ["", "global options, before or after the command (after `curl` and `docker-run`, all is theirs):"]
    lines += [
        "  --output default|json|yaml   format of what goes to stdout",
        "  --progress auto|plain|quiet  progress on stderr",
        "  --use NAME                   which connection: its name, or a regular expression that matches one",
        "  --debug                      show the Python trace of an error",
        "",
        "`telepresence COMMAND --help` tells a command's options.",
    ]
    return "\n".join(lines)
