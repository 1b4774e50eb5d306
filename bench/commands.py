"""Running the commands that the bench is made of; what fails says so in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devcluster import binaries

ROOT = Path(__file__).resolve().parent.parent
TELEPRESENCE = str(ROOT / ".venv" / "bin" / "telepresence")
TIMEOUT = 180.0


class BenchError(Exception):
    """Something that the bench needs is not there or failed: one line."""


def run(
    command: Sequence[str], given: str | None = None, *, check: bool = True, timeout: float = TIMEOUT, **more: Any
) -> str:
    """Run a command to its end; return its standard output. BenchError with its last line if it fails."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout, **more)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{_short(command)} did not end within {timeout:g} s") from None
    if done.returncode and check:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BenchError(f"{_short(command)} ended with {done.returncode}: {lines[-1] if lines else 'no output'}")
    return str(done.stdout)


def _short(command: Sequence[str]) -> str:
    words = " ".join(" ".join(command).split())
    return words if len(words) < 80 else words[:77] + "…"


def start(command: Sequence[str], **more: Any) -> subprocess.Popen[str]:
    """Start a command that runs beside us, its output in a pipe, out of reach of the terminal's Ctrl-C."""
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **more
    )


def stop(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT, patience: float = 60) -> None:
    """End what was started, and wait for it."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def kubectl() -> str:
    """Return the program that is kubectl if it is called so: the development cluster's, or the one on PATH for another cluster."""
    if not os.environ.get("KUBECONFIG"):
        return str(binaries.build("kube"))
    found = shutil.which("kubectl")
    if found is None:
        raise BenchError("kubectl is not installed; it is the peer, and looks into the cluster")
    return found
