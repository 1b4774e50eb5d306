"""``intercept``: answered here by every replica, nothing restarted, probes and the rest left alone."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import api
from orchestrator.engine import Engine
from telewire.errors import NotFound
from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.hammer import Hammer, failed_after


def identity(kube: Kube, app: str) -> dict[str, tuple[str, int]]:
    """Return UID and restart count of each pod."""
    return {
        pod.metadata.name: (pod.metadata.uid, sum(one.restart_count for one in pod.status.container_statuses))
        for pod in kube.pods(app)
    }


def scale(kube: Kube, name: str, replicas: int) -> None:
    kube.apps.patch_namespaced_deployment_scale(name, "default", {"spec": {"replicas": replicas}})
    eventually(lambda: settled(kube, name, replicas), seconds=90)
    eventually(lambda: reached(kube, name), seconds=90)


def settled(kube: Kube, name: str, replicas: int) -> bool:
    """Whether there are so many pods and all are ready; one that is going away still answers."""
    pods = kube.core.list_namespaced_pod("default", label_selector=f"app={name}").items
    return len(pods) == replicas and all(ready(pod) for pod in pods)


def reached(kube: Kube, app: str) -> bool:
    """Whether the Service leads to no pod that is gone: a node's proxy may know a second later than the API server."""
    script = f"for i in $(seq 12); do curl -sS -o /dev/null --max-time 1 http://{app}/env || exit 1; done"
    kube.run(kube.pods("client")[0].metadata.name, "sh", "-c", script)
    return True


def ready(pod: Any) -> bool:
    states = pod.status.container_statuses or []
    return len(states) == len(pod.spec.containers) and all(one.ready for one in states)


def answered_by(kube: Kube, app: str) -> set[str]:
    """Return who answers at the Service and at each pod's own address."""
    urls = [f"http://{app}/", *(f"http://{pod.status.pod_ip}:8080/" for pod in kube.pods(app))]
    return {json.loads(kube.get(url))["version"] for url in urls}


@pytest.fixture
def three_replicas(kube: Kube) -> Iterator[None]:
    scale(kube, "frontend-v1", 3)
    yield
    scale(kube, "frontend-v1", 1)


@pytest.fixture
def intercepted(connection: str, telepresence: Command, kube: Kube) -> Iterator[subprocess.Popen[str]]:
    child = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    try:
        eventually(
            lambda: answered_by(kube, "frontend-v1") == {"v2"}, lambda: child.poll() is None or child.stdout.read()
        )
        yield child
    finally:
        stop(child)


def test_every_replica_is_answered_here_also_one_that_comes_later(
    three_replicas: None, intercepted: subprocess.Popen[str], kube: Kube
) -> None:
    before = identity(kube, "frontend-v1")
    assert len(before) == 3
    scale(kube, "frontend-v1", 4)
    eventually(lambda: answered_by(kube, "frontend-v1") == {"v2"})
    assert identity(kube, "frontend-v1").items() >= before.items()
    stop(intercepted)
    eventually(lambda: answered_by(kube, "frontend-v1") == {"v1"})
    assert identity(kube, "frontend-v1").items() >= before.items()
    scale(kube, "frontend-v1", 3)


def test_environment_and_files_are_the_remote_containers(connection: str, telepresence: Command, kube: Kube) -> None:
    environment = json.loads(kube.get("http://frontend-v1/env"))
    pod = kube.pods("frontend-v1")[0].metadata.name
    kube.run(pod, "sh", "-c", "echo from-the-pod > /data/from-pod")
    before = identity(kube, "frontend-v1")
    child = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    try:
        eventually(
            lambda: answered_by(kube, "frontend-v1") == {"v2"}, lambda: child.poll() is None or child.stdout.read()
        )
        here = json.loads(kube.get("http://frontend-v1/env"))
        for name, value in environment.items():
            if name not in ("PATH", "HOME", "LC_CTYPE"):
                assert here.get(name) == value, name
        assert b"\n" in base64.b64decode(here["FRONTEND_SECRET"])
        handler = docker(
            "ps",
            "-q",
            "--filter",
            "label=telepresence.io/role=handler",
            "--filter",
            "label=telepresence.io/connection=e2e",
        )
        assert docker("exec", handler, "cat", "/data/from-pod") == "from-the-pod"
        assert "Hello from the cluster" in docker("exec", handler, "cat", "/etc/frontend/greeting.txt")
        token = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
        assert docker("exec", handler, "cat", token) == "default"
        docker("exec", handler, "sh", "-c", "echo from-here > /data/from-here")
        assert kube.run(pod, "cat", "/data/from-here") == "from-here\n"
        assert all(ready(one) for one in kube.pods("frontend-v1"))
    finally:
        stop(child)
    kube.run(pod, "rm", "/data/from-here", "/data/from-pod")
    eventually(lambda: answered_by(kube, "frontend-v1") == {"v1"})
    assert identity(kube, "frontend-v1") == before


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_no_request_fails_over_engage_and_leave(connection: str, telepresence: Command, kube: Kube) -> None:
    hammer = Hammer(kube, "frontend-v1", 80, 16)
    time.sleep(2)
    child = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    try:
        eventually(
            lambda: answered_by(kube, "frontend-v1") == {"v2"}, lambda: child.poll() is None or child.stdout.read()
        )
        time.sleep(2)
        telepresence("leave", "frontend-v1")
    finally:
        stop(child)
    found = hammer.results()
    assert failed_after(found, 0.0) == []
    assert {one.said for one in found} == {"v1", "v2"}
    assert found[-1].said == "v1"


def test_one_that_is_ended_while_it_begins_leaves_nothing(connection: str, kube: Kube) -> None:
    before = identity(kube, "frontend-v1")
    control = api.Connection(Engine(), connection).control
    for kind in ("intercept", "replace"):
        port = "8080" if kind == "intercept" else "8080:8080"
        begun = control.engage({"kind": kind, "workload": "frontend-v1", "name": kind, "ports": [port], "to_pod": []})
        assert begun["environment"]["FRONTEND_SECRET"]
        control.disengage(begun["id"])
        with pytest.raises(NotFound):
            control.until_active(begun["id"])
    eventually(lambda: kube.answers("frontend-v1", "v1"))
    assert {name: uid for name, (uid, _) in identity(kube, "frontend-v1").items()} == {
        name: uid for name, (uid, _) in before.items()
    }


def test_probes_stay_with_the_application(intercepted: subprocess.Popen[str], kube: Kube) -> None:
    before = identity(kube, "frontend-v1")
    handler = docker(
        "ps", "-q", "--filter", "label=telepresence.io/role=handler", "--filter", "label=telepresence.io/connection=e2e"
    )
    docker("pause", handler)
    try:
        time.sleep(9)
        assert all(ready(pod) for pod in kube.pods("frontend-v1"))
        assert identity(kube, "frontend-v1") == before
    finally:
        docker("unpause", handler)


def test_udp_is_answered_here(connection: str, telepresence: Command, kube: Kube) -> None:
    ask = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(2);"
        "s.sendto(b'now',('clock',1123));print(s.recv(100))"
    )
    answer = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',1123))\n"
        "while True:\n d,a=s.recvfrom(100);s.sendto(b'here '+d,a)"
    )
    client = kube.pods("client")[0].metadata.name
    child = telepresence.start(
        "intercept", "clock", "--port", "1123", "--docker-run", "--", "--entrypoint", "python3", "frontend-v2", "-c", answer
    )  # fmt: skip
    try:
        eventually(
            lambda: "here now" in kube.run(client, "python3", "-c", ask),
            lambda: child.poll() is None or child.stdout.read(),
        )
    finally:
        stop(child)
    eventually(lambda: "here" not in kube.run(client, "python3", "-c", ask))


def test_second_engagement_that_clashes_is_told_who_has_it(
    intercepted: subprocess.Popen[str], telepresence: Command
) -> None:
    telepresence("connect", "--docker", "--name", "e2e-two")
    try:
        for kind in (["intercept", "--port", "8080"], ["replace"]):
            line = telepresence.fails(
                "--use", "e2e-two", *kind[:1], "frontend-v1", *kind[1:], "--docker-run", "--", "--name", "e2e-x", "frontend-v2"
            )  # fmt: skip
            assert "connection e2e)" in line
            assert "@" in line
            assert "since 20" in line
        line = telepresence.fails(
            "--use", "e2e", "intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "--name", "e2e-x", "frontend-v2"
        )  # fmt: skip
        assert "telepresence leave frontend-v1" in line
    finally:
        telepresence("--use", "e2e-two", "quit")


def test_bad_ports_name_those_there_are(connection: str, telepresence: Command, kube: Kube) -> None:
    before = kube.traces()
    line = telepresence.fails("intercept", "frontend-v1", "--port", "8080:nope", "--docker-run", "--", "frontend-v2")
    assert "8080/tcp (http)" in line
    line = telepresence.fails("intercept", "frontend-v1", "--service", "backend", "--docker-run", "--", "frontend-v2")
    assert "frontend-v1" in line
    assert kube.traces() == before


def test_host_network_pods_are_refused(connection: str, telepresence: Command, kube: Kube) -> None:
    image = kube.pods("frontend-v1")[0].spec.containers[0].image
    pod = {
        "metadata": {"name": "e2e-host", "labels": {"app": "e2e-host"}},
        "spec": {"hostNetwork": True, "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "one", "image": image, "imagePullPolicy": "IfNotPresent", "env": [{"name": "PORT", "value": "18999"}]}]},
    }  # fmt: skip
    kube.core.create_namespaced_pod("default", pod)
    try:
        line = telepresence.fails("intercept", "e2e-host", "--port", "18999", "--docker-run", "--", "frontend-v2")
    finally:
        kube.core.delete_namespaced_pod("e2e-host", "default", grace_period_seconds=0)
    assert "node's network" in line
