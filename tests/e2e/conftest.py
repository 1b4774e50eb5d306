"""The real engine, the real plugins and the real cluster, as fixtures; each test leaves both sides as it found them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import host  # noqa: E402
from kube import Kube, devcluster_kubeconfig  # noqa: E402

NAME = "e2e"
"""What the names of all connections made here begin with; others on the same engine are left alone."""
TELEPRESENCE = str(ROOT / ".venv" / "bin" / "telepresence")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as needing the cluster, with time for real containers and pods."""
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(300))


def ours(arguments: tuple[str, ...]) -> list[str]:
    """Return the arguments with ``--use e2e``, unless they choose a connection themselves or need none."""
    chosen = "--use" in arguments or arguments[0] == "connect" or not host.engine(NAME)["networks"]
    return [*arguments] if chosen else ["--use", f"^{NAME}$", *arguments]


class Command:
    """The ``telepresence`` command as a user of the development cluster has it."""

    def __init__(self, kubeconfig: str) -> None:
        self.environment = {**os.environ, "KUBECONFIG": kubeconfig}

    def __call__(
        self, *arguments: str, code: int | None = 0, timeout: float = 120, **extra: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; fail the test unless it ends with ``code`` (None: whatever it ends with)."""
        environment = {**self.environment, **extra.pop("env", {})}
        done = subprocess.run(
            [TELEPRESENCE, *ours(arguments)], env=environment, capture_output=True, text=True, timeout=timeout, **extra
        )
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, **extra: Any) -> subprocess.Popen[str]:
        """Start the command in a process group of its own, its output in pipes."""
        return subprocess.Popen(
            [TELEPRESENCE, *ours(arguments)], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True, **extra,
        )  # fmt: skip

    def fails(self, *arguments: str, **extra: Any) -> str:
        """Run the command, which must fail with one line on stderr and nothing on stdout; return the line."""
        done = self(*arguments, code=None, **extra)
        assert done.returncode not in (0, -9), done
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return lines[0]


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The development cluster's kubeconfig, which ``make cluster`` has written."""
    path = devcluster_kubeconfig()
    assert os.path.exists(path), "no development cluster: run `make cluster`"
    return path


@pytest.fixture(scope="session")
def kube(kubeconfig: str) -> Iterator[Kube]:
    """The development cluster."""
    found = Kube(kubeconfig)
    sweep(found)
    yield found
    found.close()


def sweep(kube: Kube) -> None:
    """Remove what a run that was killed has left, so that it does not fail this one."""
    for kind, names in host.engine(NAME).items():
        if names:
            noun = kind.removesuffix("s")
            force = ["-f"] if kind != "networks" else []
            subprocess.run(["docker", noun, "rm", *force, *names], check=True, capture_output=True)
    for namespace in kube.core.list_namespace().items:
        if namespace.metadata.name.startswith(f"{NAME}-"):
            kube.core.delete_namespace(namespace.metadata.name)


@pytest.fixture(scope="session")
def telepresence(kubeconfig: str) -> Command:
    """The command."""
    return Command(kubeconfig)


@pytest.fixture(scope="session", autouse=True)
def frontend_v2() -> None:
    """The handler's image."""
    subprocess.run(
        ["docker", "build", "-q", "-t", "frontend-v2", str(ROOT / "images" / "frontend-v2")],
        check=True,
        capture_output=True,
    )


class Shared:
    """The one connection that tests share which do not need their own; both sides are compared around each test, and around it."""

    def __init__(self, kube: Kube, telepresence: Command) -> None:
        self._kube, self._telepresence = kube, telepresence
        self._before: dict[str, Any] | None = None

    def take(self) -> None:
        """Have it."""
        if self._before is None:
            self._before = self._outside()
            assert not any(self._before["engine"].values()), f"the engine is not clean before: {self._before['engine']}"
            self._telepresence("connect", "--docker", "--name", NAME)

    def drop(self) -> None:
        """End it, if it is there; nothing may be left."""
        if self._before is not None:
            before, self._before = self._before, None
            if host.engine(NAME)["networks"]:
                self._telepresence("quit", "--use", f"^{NAME}$")
            agree(self._outside, before)

    def drop_unless_whole(self) -> None:
        """End it if a test has ended it or its daemon."""
        state = ["docker", "inspect", "-f", "{{.State.Running}}", f"tp-{NAME}"]
        if subprocess.run(state, capture_output=True, text=True).stdout.strip() != "true":
            self.drop()

    def _outside(self) -> dict[str, Any]:
        seen = both_sides(self._kube)
        # A test may have workloads of its own by now, whose changes it compares itself.
        seen["cluster"] = {kind: seen["cluster"][kind] for kind in ("jobs", "leases")}
        return seen


def both_sides(kube: Kube) -> dict[str, Any]:
    """Return all that a connection or an engagement could leave."""
    return {"engine": host.engine(NAME), "network": host.network(), "mounts": host.mounts(), "cluster": kube.traces()}


def agree(look: Callable[[], dict[str, Any]], expected: dict[str, Any], seconds: float = 60) -> None:
    """Wait until ``look()`` gives ``expected``; fail when the time is up."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.3)
    assert seen == expected, "\n".join(
        f"{kind} {part}: {is_now!r}, was {was!r}"
        for kind in expected
        for part in (expected[kind].keys() | seen[kind].keys() if isinstance(expected[kind], dict) else [""])
        if (is_now := seen[kind].get(part) if part else seen[kind])
        != (was := expected[kind].get(part) if part else expected[kind])
    )


@pytest.fixture(scope="session")
def shared(kube: Kube, telepresence: Command) -> Iterator[Shared]:
    """The shared connection, ended after the last test."""
    made = Shared(kube, telepresence)
    yield made
    made.drop()


@pytest.fixture
def nothing_left(shared: Shared, kube: Kube, telepresence: Command) -> Iterator[None]:
    """Begin without a connection; compare both sides before and after the test."""
    shared.drop()
    before = both_sides(kube)
    assert not any(before["engine"].values()), f"the engine is not clean before the test: {before['engine']}"
    yield
    try:
        agree(lambda: both_sides(kube), before)
    finally:
        quit_all(telepresence)


def quit_all(telepresence: Command) -> None:
    """End what a test that failed has left, so that the others do not."""
    left = host.engine(NAME)
    for name in {name.removeprefix("tp-") for name in left["containers"] + left["networks"]}:
        telepresence("quit", "--use", f"^{name}$", code=None)


@pytest.fixture
def connection(shared: Shared, kube: Kube, telepresence: Command) -> Iterator[str]:
    """A connection to the development cluster, its name; compare both sides before and after what is done with it."""
    shared.take()
    before = both_sides(kube)
    yield NAME
    try:
        shared.drop_unless_whole()
        if host.engine(NAME)["networks"]:
            agree(lambda: both_sides(kube), before)
        else:
            agree(lambda: {"workloads": kube.traces()["workloads"]}, {"workloads": before["cluster"]["workloads"]})
    except BaseException:
        quit_all(telepresence)
        raise


@pytest.fixture
def replaced(connection: str, telepresence: Command, kube: Kube) -> Iterator[subprocess.Popen[str]]:
    """``frontend-v1`` replaced by ``frontend-v2``, answered by it; the command in the foreground."""
    child = telepresence.start("replace", "frontend-v1", "--docker-run", "--", "frontend-v2")
    try:
        eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> int:
    """End a command that was started, if it still runs; return its exit code."""
    if child.poll() is None:
        child.send_signal(how)
    try:
        return child.wait(60)
    finally:
        if child.poll() is None:
            child.kill()
        if child.stdout:
            child.stdout.close()


def eventually(holds: Callable[[], bool], alive: Callable[[], object] = lambda: True, seconds: float = 40) -> None:
    """Wait until ``holds()`` is true; fail when the time is up or ``alive()`` is not True any more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
            last: object = "false"
        except (RuntimeError, OSError, subprocess.SubprocessError, HTTPError, ApiException) as error:
            last = error
        state = alive()
        assert state is True, state
        assert time.monotonic() < deadline, f"not within {seconds} s; last: {last}"
        time.sleep(0.2)
