"""Whatever dies while a workload is intercepted, somebody answers: requests from another pod at a steady rate, counted one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.hammer import Hammer, Request, failed_after, now
from tests.e2e.test_intercept import answered_by, docker

NODE = "devcluster-dev"
GRACE = 1.0
"""Seconds after a death in which a request may fail."""
SECONDS = 9.0


def agent_pids(kube: Kube, role: str) -> list[int]:
    """Return the host's process IDs of the agents in ephemeral containers."""
    shown = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    listing = shown.stdout.splitlines()[1:]
    digests = [
        word
        for pod in kube.pods("frontend-v1")
        for one in pod.spec.ephemeral_containers or []
        if one.name.startswith(f"telepresence-{role}-")
        for word in one.command
        if len(word) == 64
    ]
    return [int(line.split()[0]) for line in listing if any(digest in line for digest in digests)]


def kill_agent(kube: Kube) -> float:
    pids = agent_pids(kube, "net")
    assert pids, "no agent runs"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # Until they have ended the kernel completes connections for them, and resets those then.
    while any(map(is_alive, pids)):
        time.sleep(0.001)
    return now()


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that only waits to be asked how has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_handler(_: Kube) -> None:
    docker(
        "kill",
        "--signal",
        "KILL",
        docker(
            "ps",
            "-q",
            "--filter",
            "label=telepresence.io/role=handler",
            "--filter",
            "label=telepresence.io/connection=e2e",
        ),
    )


def kill_daemon(_: Kube) -> None:
    docker("kill", "--signal", "KILL", "tp-e2e")


def in_node(*command: str) -> str:
    return docker("exec", NODE, *command)


def restart(part: str) -> Callable[[Kube], None]:
    def work(_: Kube) -> None:
        in_node("pkill", "-KILL", "-x", part)

    return work


def delete_pod(kube: Kube) -> None:
    kube.core.delete_namespaced_pod(kube.pods("frontend-v1")[0].metadata.name, "default")


def roll_out(kube: Kube) -> None:
    stamp = {"spec": {"template": {"metadata": {"annotations": {"e2e/rolled-out": str(time.time())}}}}}
    kube.apps.patch_namespaced_deployment("frontend-v1", "default", stamp)


def undo_roll_out(kube: Kube) -> None:
    stamp = {"spec": {"template": {"metadata": {"annotations": {"e2e/rolled-out": None}}}}}
    kube.apps.patch_namespaced_deployment("frontend-v1", "default", stamp)
    eventually(lambda: rolled_out(kube), seconds=90)


@pytest.fixture(scope="module")
def two_replicas(kube: Kube) -> Iterator[None]:
    """Two replicas that end gracefully: a pod that goes leaves another, and what fails then fails by our doing."""
    patch_lifecycle(kube, {"preStop": {"sleep": {"seconds": 3}}})
    scale(kube, 2)
    yield
    scale(kube, 1)
    patch_lifecycle(kube, None)


def patch_lifecycle(kube: Kube, lifecycle: Any) -> None:
    name = kube.apps.read_namespaced_deployment("frontend-v1", "default").spec.template.spec.containers[0].name
    change = {"spec": {"template": {"spec": {"containers": [{"name": name, "lifecycle": lifecycle}]}}}}
    kube.apps.patch_namespaced_deployment("frontend-v1", "default", change)
    eventually(lambda: rolled_out(kube), seconds=60)


def rolled_out(kube: Kube) -> bool:
    found = kube.apps.read_namespaced_deployment("frontend-v1", "default")
    status = found.status
    current = (status.observed_generation or 0) >= found.metadata.generation
    wanted = found.spec.replicas
    return bool(
        current and (status.updated_replicas or 0) == wanted == (status.replicas or 0) == (status.ready_replicas or 0)
    )


def scale(kube: Kube, replicas: int) -> None:
    kube.apps.patch_namespaced_deployment_scale("frontend-v1", "default", {"spec": {"replicas": replicas}})
    eventually(lambda: rolled_out(kube), seconds=90)


def while_hammered(
    kube: Kube, telepresence: Command, event: Callable[[Kube], object], seconds: float = SECONDS, address: str = ""
) -> tuple[list[Request], float, subprocess.Popen[str]]:
    """Intercept, let ``event`` happen under load; return all requests, the moment of the event, and the command."""
    child = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"}, lambda: child.poll() is None or child.stdout.read())
    hammer = Hammer(kube, address, 8080, seconds) if address else Hammer(kube, "frontend-v1", 80, seconds)
    time.sleep(2)
    moment = now()
    told = event(kube)
    return hammer.results(), told if isinstance(told, float) else moment, child


def end(telepresence: Command, child: subprocess.Popen[str]) -> None:
    telepresence("quit")
    stop(child)


@pytest.mark.parametrize("event", [kill_agent], ids=["agent"])
def test_agents_death_costs_no_request_and_another_takes_over(
    event: Callable[[Kube], object], two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    found, moment, child = while_hammered(kube, telepresence, event)
    try:
        assert failed_after(found, moment) == []
        eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"})
    finally:
        end(telepresence, child)


@pytest.mark.parametrize("event", [kill_daemon, kill_handler], ids=["daemon", "handler"])
def test_death_on_this_side_leaves_the_application_answering(
    event: Callable[[Kube], object], two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    found, moment, child = while_hammered(kube, telepresence, event)
    try:
        assert failed_after(found, moment, GRACE) == []
        assert {one.said for one in found if one.began > moment + 5} == {"v1"}
    finally:
        end(telepresence, child)


def test_commands_death_ends_it_within_the_handlers_life(
    two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    found, moment, child = while_hammered(kube, telepresence, lambda _: child_kill(kube))
    try:
        assert failed_after(found, moment, GRACE) == []
    finally:
        end(telepresence, child)


def child_kill(_: Kube) -> None:
    """Kill the command in the foreground, not what it has started."""
    listing = subprocess.run(["pgrep", "-f", "telepresence intercept frontend-v1"], capture_output=True, text=True)
    for pid in listing.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize(
    "event",
    [delete_pod, lambda kube: scale(kube, 3), roll_out, restart("kube-apiserver")],
    ids=["pod-deleted", "scaled-up", "rolled-out", "api-server"],
)
def test_clusters_changes_leave_nobody_unanswered(
    event: Callable[[Kube], object], two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    found, moment, child = while_hammered(kube, telepresence, event, 13)
    try:
        assert failed_after(found, moment, GRACE) == []
        eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"}, seconds=60)
    finally:
        end(telepresence, child)
        if event is roll_out:
            undo_roll_out(kube)
        scale(kube, 2)


def test_kubelets_restart_leaves_no_pod_unanswered(
    two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    # By the pod's address: for Services a restarted kubelet counts its pods as not ready for a moment, engaged or not.
    address = kube.pods("frontend-v1")[0].status.pod_ip
    found, moment, child = while_hammered(kube, telepresence, restart("kubelet"), 13, address)
    try:
        assert failed_after(found, moment, GRACE) == []
        eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"}, seconds=60)
    finally:
        end(telepresence, child)


def test_cut_link_fails_over_and_comes_back(
    two_replicas: None, connection: str, telepresence: Command, kube: Kube
) -> None:
    address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "tp-e2e")
    rule = ["INPUT", "-s", address, "-j", "DROP"]

    def cut(_: Kube) -> None:
        in_node("iptables", "-I", *rule)

    try:
        found, moment, child = while_hammered(kube, telepresence, cut, 32)
        try:
            assert failed_after(found, moment, GRACE) == []
            assert {one.said for one in found if one.began > moment + 3} == {"v1"}
            in_node("iptables", "-D", *rule)
            eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"}, seconds=60)
        finally:
            end(telepresence, child)
    finally:
        subprocess.run(["docker", "exec", NODE, "iptables", "-D", *rule], capture_output=True)
