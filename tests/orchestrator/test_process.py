"""A command in the foreground has our terminal, our signals and its own exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

PARENT = """
import os, signal, sys
from orchestrator import process
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may have been started by nohup,
signal.signal(signal.SIGINT, signal.default_int_handler)  # or in the background of a script
ended = []
code = process.foreground(
    sys.argv[1:], started=lambda: os.write(1, b"started\\n"), ending=lambda: ended.append(1)
).code
print("ended", len(ended), flush=True)
sys.exit(code)
"""


@contextlib.contextmanager
def start(*command: str, parent: str = PARENT) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", parent, *command], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137)])
def test_exit_codes(script: str, code: int) -> None:
    with start("sh", "-c", script) as child:
        assert child.wait(20) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_once(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = (
        f"n=0; trap 'n=$((n+1)); echo hit' {name}; trap 'echo got $n; exit 7' USR2; "
        "echo ready; while :; do sleep 0.05; done"
    )
    with start("sh", "-c", script) as child:
        assert child.stdout is not None
        lines = {child.stdout.readline(), child.stdout.readline()}
        assert lines == {b"started\n", b"ready\n"}
        child.send_signal(number)
        assert child.stdout.readline() == b"hit\n"
        time.sleep(0.3)  # for one more to come, if it were passed on twice
        child.send_signal(signal.SIGUSR2)
        assert child.stdout.readline() == b"got 1\n"
        ending = number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        assert child.stdout.readline() == f"ended {int(ending)}\n".encode()
        assert child.wait(20) == 7


def test_what_nohup_starts_outlives_the_terminal() -> None:
    script = "trap 'exit 7' USR2; echo ready; while :; do sleep 0.05; done"
    with start("sh", "-c", script, parent=PARENT.replace("SIG_DFL", "SIG_IGN")) as child:
        assert child.stdout is not None
        assert {child.stdout.readline(), child.stdout.readline()} == {b"started\n", b"ready\n"}
        child.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        child.send_signal(signal.SIGUSR2)
        assert child.stdout.readline() == b"ended 0\n"
        assert child.wait(20) == 7


def test_the_terminals_ctrl_c_reaches_the_command_once() -> None:
    import pty

    script = "n=0; trap 'n=$((n+1)); echo hit' INT; trap 'echo got $n; exit 0' USR1; echo ready $$; while :; do sleep 0.05; done"
    pid, screen = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PARENT, "sh", "-c", script])
    text = b""
    while b"ready" not in text or not text.endswith(b"\n"):
        text += os.read(screen, 1000)
    os.write(screen, b"\x03")
    while b"hit" not in text:
        text += os.read(screen, 1000)
    time.sleep(0.3)
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while b"ended" not in text and time.monotonic() < deadline:
        text += os.read(screen, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(screen)
    assert b"got 1" in text
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_command_starts_with_our_signal_mask() -> None:
    with start("sh", "-c", "grep SigBlk /proc/self/status") as child:
        output = child.communicate(timeout=20)[0]
    assert b"SigBlk:\t0000000000000000" in output
