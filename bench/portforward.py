"""The peer ``kubectl port-forward``."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

from bench import commands
from bench.commands import BenchError
from bench.stage import NAMESPACE, Stage


@contextlib.contextmanager
def port_forward(stage: Stage, pod: str, port: int) -> Iterator[int]:
    """Forward a port of this machine to a pod's; give its number."""
    command = stage.kubectl_command("port-forward", "-n", NAMESPACE, f"pod/{pod}", f":{port}", "--address=127.0.0.1")
    process = commands.start(command, executable=stage.kubectl_program)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+) -> ", line)
        if found is None:
            raise BenchError(f"kubectl port-forward does not start: {line.strip()}")
        # It says a line for each connection; nobody may make it wait.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(10)
