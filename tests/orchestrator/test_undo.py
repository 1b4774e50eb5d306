"""What was made is undone, the last first; locks vanish with their holders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from orchestrator import lock
from orchestrator.undo import StoppedError, Undo
from telewire.errors import Conflict, NotFound, Unavailable


def test_steps_run_in_reverse_and_failures_are_told() -> None:
    seen: list[int] = []

    def fails() -> None:
        raise Unavailable("plugin is dead")

    def work() -> None:
        with Undo() as undo:
            undo.add("one", lambda: seen.append(1))
            undo.add("network x", fails)
            undo.add("three", lambda: seen.append(3))
            raise NotFound("first")

    with pytest.raises(NotFound, match=r"^first; left behind: network x: plugin is dead$"):
        work()
    assert seen == [3, 1]


def test_keep_forgets_the_steps() -> None:
    seen: list[int] = []
    with Undo() as undo:
        undo.add("one", lambda: seen.append(1))
        undo.keep()
    assert seen == []


def test_a_signal_during_the_steps_waits() -> None:
    seen: list[int] = []

    def stop(number: int, _frame: object) -> None:
        raise StoppedError(number)

    def work() -> None:
        with Undo() as undo:
            undo.add("last", lambda: seen.append(2))
            undo.add("first", lambda: (os.kill(os.getpid(), signal.SIGTERM), seen.append(1)))

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(StoppedError):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [1, 2]


def test_the_lock_is_exclusive_and_free_after_kill(unique: str) -> None:
    code = (
        "import sys,time; from orchestrator import lock\n"
        f"with lock.held({unique!r}, lambda: None): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waited: list[int] = []
        with (
            pytest.raises(Conflict, match="another telepresence command is busy"),
            lock.held(unique, lambda: waited.append(1), patience=0.2),
        ):
            pass
        assert waited == [1]
        holder.kill()
    with lock.held(unique, lambda: waited.append(2), patience=1):
        pass
    assert waited == [1]
