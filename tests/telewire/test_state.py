from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from telewire.state import StateFile

WRITER = """
import sys
from pathlib import Path
from telewire.state import StateFile
state, number = StateFile(Path(sys.argv[1])), 0
while True:
    number += 1
    state.save({"number": number, "filling": [number] * 20000})
    if number == 1:
        print("saved", flush=True)
"""


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state" / "volumes.json")


def test_there_is_nothing_before_the_first_save(state: StateFile) -> None:
    assert state.load() == {}


def test_what_was_saved_last_is_loaded(state: StateFile) -> None:
    state.save({"volumes": {"a": {"mounts": 1}}})
    state.save({"volumes": {}, "ü": None})
    assert state.load() == StateFile(state.path).load() == {"volumes": {}, "ü": None}
    assert [entry.name for entry in state.path.parent.iterdir()] == ["volumes.json"]


@pytest.mark.parametrize("content", [b'{"volumes": {', b"\xff\xfe", b"", b"[1, 2]", b"null"])
def test_what_cannot_be_read_is_set_aside_and_said(
    state: StateFile, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    state.path.parent.mkdir()
    state.path.write_bytes(content)
    assert state.load() == {}
    (aside,) = state.path.parent.iterdir()
    assert aside.name.startswith("volumes.corrupt-")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    state.save({"a": 1})
    assert state.load() == {"a": 1}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_what_was_there(state: StateFile, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    state.save({"a": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            state.save({"a": 2})
    assert state.load() == {"a": 1}
    state.save({"a": 3})
    assert state.load() == {"a": 3}


def test_what_is_no_json_leaves_what_was_there(state: StateFile) -> None:
    state.save({"a": 1})
    with pytest.raises(TypeError):
        state.save({"a": object()})
    assert state.load() == {"a": 1}


def test_a_save_is_on_the_disk_before_it_takes_the_old_ones_place(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(os, step, lambda *args, step=step, real=real: (steps.append(step), real(*args))[1])
    state.save({})
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_state(state: StateFile, seed: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(state.path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "saved\n"
        until = time.monotonic() + random.Random(seed).uniform(0.01, 0.15)
        seen = 0
        while time.monotonic() < until:
            loaded = json.loads(state.path.read_bytes())
            assert loaded["filling"] == [loaded["number"]] * 20000
            assert loaded["number"] >= seen
            seen = loaded["number"]
        writer.send_signal(signal.SIGKILL)
    loaded = state.load()
    assert loaded["number"] >= max(seen, 1)
    assert loaded["filling"] == [loaded["number"]] * 20000
    state.save({"after": True})
    assert state.load() == {"after": True}
