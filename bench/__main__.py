"""``python -m bench [NAME…]``: measure, and print a line for each figure as soon as it is known.

A target that is missed is said so and is no failure; the exit code is 1 only if something could not be measured.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator

from bench import commandline, connections, engagements, files, flows, memory
from bench.commands import BenchError
from bench.stage import Stage
from bench.table import HEADER, Row
from telewire.errors import TeleError

MEASUREMENTS: dict[str, Callable[[Stage], Iterator[Row]]] = {
    "connect": commandline.connect,
    "memory": memory.after_downloads,
    "connections": connections.many,
    "commands": commandline.quick,
    "docker-run": commandline.docker_run,
    "get": flows.small,
    "bulk": flows.bulk,
    "intercept": engagements.intercept,
    "replace": engagements.replace,
    "mount": files.near,
    "mount-20ms": files.far,
    "bulk-20ms": flows.far,
}
"""In the order in which they are made: those that share a connection stand together."""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"what to measure, default all: {', '.join(MEASUREMENTS)}"
    )
    wanted = parser.parse_args().name
    for name in wanted:
        if name not in MEASUREMENTS:
            parser.error(f"there is no {name!r}; choose from {', '.join(MEASUREMENTS)}")
    signal.signal(signal.SIGTERM, _interrupt)
    failed = False
    print(HEADER, flush=True)
    try:
        with Stage() as stage:
            for name, measurement in MEASUREMENTS.items():
                if wanted and name not in wanted:
                    continue
                try:
                    for row in measurement(stage):
                        print(row, flush=True)
                except (BenchError, TeleError, OSError) as error:
                    failed = True
                    print(f"bench: {name} could not be measured: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except (BenchError, TeleError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
