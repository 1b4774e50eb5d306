"""``python -m devcluster``: a real one-node Kubernetes in one container."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from devcluster.settings import Settings, check_name
from telewire.errors import TeleError


class _Parser(argparse.ArgumentParser):
    """argparse, with errors as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `python -m devcluster --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="devcluster", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = _Parser(add_help=False)
    named.add_argument("--name", default="dev", help="which cluster; default: %(default)s")
    up = commands.add_parser("up", parents=[named], help="bring the cluster up; its data stay until `down`")
    up.add_argument("--dual-stack", action="store_true", help="give pods and Services IPv6 addresses too")
    commands.add_parser("down", parents=[named], help="remove the cluster and its data")
    commands.add_parser("status", parents=[named], help="tell whether the cluster runs; exit code 1 if it does not")
    load = commands.add_parser("load", parents=[named], help="bring images of the Docker Engine into the cluster")
    load.add_argument("image", nargs="+")
    commands.add_parser("kubeconfig", parents=[named], help="print the path of the kubeconfig")
    kubectl = commands.add_parser("kubectl", parents=[named], help="run kubectl on the cluster")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    commands.add_parser("sample", parents=[named], help="deploy the sample application")
    commands.add_parser("build", help="build what a cluster needs, and do not start one")
    commands.add_parser("base-image", help="pull the base image, or make it from Debian's packages")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit code. A TeleError says what failed."""
    from devcluster import base, sample
    from devcluster.cluster import Cluster, all_names
    from devcluster.engine import client

    if arguments.command == "base-image":
        base.ensure(client())
        return 0
    cluster = Cluster(Settings(check_name(getattr(arguments, "name", "dev")), getattr(arguments, "dual_stack", False)))
    if arguments.command == "build":
        print(cluster.node_image())
    elif arguments.command == "up":
        cluster.up()
        print(cluster.kubeconfig)
    elif arguments.command == "down":
        cluster.down()
    elif arguments.command == "load":
        cluster.load(arguments.image)
    elif arguments.command == "kubeconfig":
        cluster.running()
        print(cluster.kubeconfig)
    elif arguments.command == "kubectl":
        cluster.running()
        given = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
        return cluster.kubectl(*given).returncode
    elif arguments.command == "sample":
        sample.deploy(cluster)
    else:
        found = cluster.inspect()
        runs = found is not None and found["State"]["Running"]
        state = "running" if runs else "stopped" if found else "not there"
        print(f"{cluster.settings.name}: {state}" + (f", {cluster.kubeconfig}" if runs else ""))
        others = [name for name in all_names() if name != cluster.settings.name]
        if others:
            print(f"others: {', '.join(others)}")
        return 0 if runs else 1
    return 0


def main() -> int:
    """Run the command line; errors are one line."""
    try:
        return run(_parser().parse_args())
    except TeleError as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
