"""``replace`` of a container with a command of its own: by the template, put back exactly; every kind of workload."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.test_intercept import docker, ready

KINDS = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet")
PLURALS = {kind: kind.lower() + "s" for kind in KINDS}


def workload(kube: Kube, kind: str) -> dict[str, Any]:
    labels = {"app": "e2e-command"}
    image = kube.pods("frontend-v1")[0].spec.containers[0].image
    container = {
        "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import frontend; frontend.serve('original')"], "workingDir": "/app",
        "ports": [{"name": "web", "containerPort": 8080}],
        "env": [{"name": "TOLD", "value": "by the template"}],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    }  # fmt: skip
    spec: dict[str, Any] = {
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        },
    }
    if kind != "DaemonSet":
        spec["replicas"] = 2
    if kind == "StatefulSet":
        spec["serviceName"] = "e2e-command"
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "e2e-command"}, "spec": spec}


def settled(kube: Kube, replicas: int) -> bool:
    pods = kube.pods("e2e-command")
    return len(pods) == replicas and all(map(ready, pods))


@pytest.fixture
def made(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    kind = request.param
    call = f"namespaced_{''.join('_' + c.lower() if c.isupper() else c for c in kind).lstrip('_')}"
    getattr(kube.apps, f"create_{call}")("default", workload(kube, kind))
    try:
        eventually(lambda: settled(kube, 1 if kind == "DaemonSet" else 2), seconds=60)
        yield kind
    finally:
        getattr(kube.apps, f"delete_{call}")("e2e-command", "default")
        eventually(lambda: not kube.core.list_namespaced_pod("default", label_selector="app=e2e-command").items)


def answers(kube: Kube) -> set[str]:
    urls = [f"http://{pod.status.pod_ip}:8080/healthz" for pod in kube.pods("e2e-command")]
    client = kube.pods("client")[0].metadata.name
    said = [kube.run(client, "curl", "-sSI", "-X", "GET", "--max-time", "5", url) for url in urls]
    return {
        line.partition(":")[2].strip() for text in said for line in text.splitlines() if line.startswith("X-Version")
    }


@pytest.mark.parametrize("made", KINDS, indirect=True)
def test_container_with_a_command_is_replaced_and_put_back(
    made: str, connection: str, telepresence: Command, kube: Kube
) -> None:
    before = kube.traces()["workloads"].get("e2e-command")
    replicas = 1 if made == "DaemonSet" else 2
    child = telepresence.start("replace", "e2e-command", "--docker-run", "--", "frontend-v2")
    try:
        eventually(
            lambda: answers(kube) == {"v2"} and settled(kube, replicas),
            lambda: child.poll() is None or child.stdout.read(),
            seconds=90,
        )
        handler = docker(
            "ps",
            "-q",
            "--filter",
            "label=telepresence.io/role=handler",
            "--filter",
            "label=telepresence.io/connection=e2e",
        )
        assert docker("exec", handler, "printenv", "TOLD") == "by the template"
    finally:
        stop(child)
    eventually(lambda: settled(kube, replicas) and answers(kube) == {"original"}, seconds=60)
    assert kube.traces()["workloads"].get("e2e-command") == before


@pytest.mark.parametrize("made", KINDS, indirect=True)
def test_every_kind_is_intercepted(made: str, connection: str, telepresence: Command, kube: Kube) -> None:
    child = telepresence.start("intercept", "e2e-command", "--port", "8080:web", "--docker-run", "--", "frontend-v2")
    try:
        eventually(lambda: answers(kube) == {"v2"}, lambda: child.poll() is None or child.stdout.read())
        listed = telepresence("list").stdout
        assert "e2e-command" in listed
    finally:
        stop(child)
    eventually(lambda: answers(kube) == {"original"})


def test_bare_pod_is_intercepted_and_not_replaced_by_template(
    connection: str, telepresence: Command, kube: Kube
) -> None:
    template = workload(kube, "Deployment")["spec"]["template"]
    pod = {"metadata": {"name": "e2e-bare", **template["metadata"]}, "spec": template["spec"]}
    kube.core.create_namespaced_pod("default", pod)
    try:
        eventually(lambda: settled(kube, 1))
        line = telepresence.fails("replace", "e2e-bare", "--docker-run", "--", "frontend-v2")
        assert "command of its own" in line
        child = telepresence.start("intercept", "e2e-bare", "--port", "8080", "--docker-run", "--", "frontend-v2")
        try:
            eventually(lambda: answers(kube) == {"v2"}, lambda: child.poll() is None or child.stdout.read())
        finally:
            stop(child)
        eventually(lambda: answers(kube) == {"original"})
    finally:
        kube.core.delete_namespaced_pod("e2e-bare", "default", grace_period_seconds=0)
        eventually(lambda: not kube.pods("e2e-command"))


def test_dead_holders_claim_is_free_after_fifteen_seconds(connection: str, telepresence: Command, kube: Kube) -> None:
    child = telepresence.start("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
    eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
    docker("kill", "--signal", "KILL", f"tp-{connection}")
    stop(child)
    telepresence("connect", "--docker", "--name", "e2e-two")
    try:
        wanted = ["--use", "e2e-two", "intercept", "frontend-v1", "--port", "8080", "--docker-run", "--"]
        line = telepresence.fails(*wanted, "--name", "e2e-x", "frontend-v2")
        assert "15 s" in line
        time.sleep(15)
        second = telepresence.start(*wanted, "--name", "e2e-x", "frontend-v2")
        try:
            eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: second.poll() is None or second.stdout.read())
        finally:
            stop(second)
    finally:
        telepresence("--use", "e2e-two", "quit")
