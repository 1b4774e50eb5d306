"""Helpers for the orchestrator's tests: the command as a user runs it, and things in the real engine."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.engine import Engine

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def telepresence() -> Run:
    """Run the command; keywords are environment variables."""

    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            input=stdin,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of stderr that a failure is."""
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("telepresence: ")
    return lines[0]


def docker(*arguments: str, **extra: Any) -> str:
    """Run Docker's command and return what it prints; what it complains of is part of the failure."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=100, check=False, **extra)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: exit code {done.returncode}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The engine, whose connections are closed afterwards."""
    with Engine() as found:
        yield found


@pytest.fixture
def unique() -> str:
    """A name that nothing else has."""
    return f"orchtest-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def clean(unique: str) -> Iterator[str]:
    """A name; every container, network and volume that bears it as its label or in its name is removed."""
    yield unique
    for listing, remove in (
        (["ps", "-aq", "--no-trunc"], ["rm", "-fv"]),
        (["network", "ls", "-q"], ["network", "rm"]),
        (["volume", "ls", "-q"], ["volume", "rm", "-f"]),
    ):
        for filters in (f"label=telepresence.io/connection={unique}", f"name={unique}"):
            if found := docker(*listing, "--filter", filters).split():
                subprocess.run(["docker", *remove, *found], capture_output=True, check=False)
