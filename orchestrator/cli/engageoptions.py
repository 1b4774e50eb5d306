"""The options of ``replace``, ``intercept``, ``wiretap`` and ``ingest``."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the options of one kind of engagement."""
    parser.add_argument("name", metavar="NAME", help="the workload; with --workload, the engagement's name")
    _handler(parser)
    parser.add_argument("-w", "--workload", help="the workload, if the engagement is to have another name")
    container = ("-c", "--container") if kind == "ingest" else ("--container",)
    parser.add_argument(*container, help="the container whose environment and volumes are taken")
    if kind in ("intercept", "wiretap"):
        parser.add_argument("--service", help="the Service whose traffic is taken, if several lead to the workload")
    if kind != "ingest":
        default = "every port, to the same here" if kind == "replace" else "the only one, to 8080 here"
        _many(
            parser,
            "-p",
            "--port",
            metavar="LOCAL[:ID]",
            help="a port here, and the number or name of the port that it stands for; repeatable, or with commas "
            f"(default: {default})",
        )
        parser.add_argument(
            "--address",
            metavar="HOST",
            help="where traffic goes if not to the handler: a container on the network, a cluster name, an address",
        )
    _many(
        parser,
        "--to-pod",
        metavar="PORT[/udp]",
        help="the handler's localhost:PORT leads to the pod's localhost:PORT; repeatable, or with commas",
    )
    _environment(parser)
    parser.add_argument("--wait-message", metavar="TEXT", help="printed when the handler has started")
    parser.add_argument(
        "--detailed-output", action="store_true", help="with --output json or yaml: all that is known of the engagement"
    )


def _many(parser: argparse.ArgumentParser, *names: str, metavar: str, help: str) -> None:  # noqa: A002
    parser.add_argument(*names, action="append", default=[], metavar=metavar, help=help)


def _handler(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the container here, one of")
    group.add_argument("--docker-run", action="store_true", help="run the image that is named after `--`")
    group.add_argument(
        "--docker-build", metavar="CONTEXT", help="build a folder or URL and run that; it is the word IMAGE after `--`"
    )
    group.add_argument("--docker-debug", metavar="CONTEXT", help="as --docker-build, and let a debugger work in it")
    parser.add_argument(
        "--docker-build-opt",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to `docker build` as --KEY=VALUE; repeatable",
    )


def _environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mount",
        metavar="true|false|/PATH[:ro]",
        help="mount the remote volumes at their paths, not at all, or below PATH; `:ro`: not to be written "
        "(default: true)",
    )
    parser.add_argument("--docker-mount", metavar="/PATH", help="the path in the container, if it is another")
    parser.add_argument("-e", "--env-file", metavar="FILE", help="write the remote environment to a file")
    parser.add_argument("-j", "--env-json", metavar="FILE", help="write the remote environment to a file, as JSON")
    parser.add_argument(
        "--env-syntax",
        default="docker",
        metavar="SYNTAX",
        help="of --env-file: docker, compose, sh, csh, cmd, json or ps; sh, csh and ps also with :export behind "
        "(default: docker)",
    )
