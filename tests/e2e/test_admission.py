"""Namespaces under PodSecurity: what is possible works, what is not is said before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client

from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.test_intercept import docker, ready

LEVELS = ("baseline", "restricted")
LABEL = "pod-security.kubernetes.io/enforce"


def pod(image: str) -> dict[str, object]:
    """A pod that the level ``restricted`` admits."""
    return {
        "metadata": {"name": "held", "labels": {"app": "held"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 8080}],
                "env": [{"name": "TOLD", "value": "in a restricted namespace"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }  # fmt: skip


@pytest.fixture(params=LEVELS)
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"e2e-{request.param}"
    image = kube.pods("frontend-v1")[0].spec.containers[0].image
    eventually(lambda: name not in [one.metadata.name for one in kube.core.list_namespace().items], seconds=60)
    kube.core.create_namespace(
        client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels={LABEL: request.param}))
    )
    try:
        eventually(lambda: bool(kube.core.list_namespaced_service_account(name).items))
        kube.core.create_namespaced_pod(name, pod(image))
        eventually(lambda: ready(kube.core.read_namespaced_pod("held", name)))
        yield name
    finally:
        kube.core.delete_namespace(name)
        eventually(lambda: name not in [one.metadata.name for one in kube.core.list_namespace().items], seconds=60)


def test_connect_and_ingest_work_and_the_rest_is_refused_beforehand(
    nothing_left: None, namespace: str, telepresence: Command, kube: Kube
) -> None:
    telepresence("connect", "--docker", "--name", "e2e", "--namespace", namespace)
    try:
        before = kube.core.read_namespaced_pod("held", namespace).spec
        for kind in ("intercept", "wiretap"):
            line = telepresence.fails(kind, "held", "--port", "8080", "--docker-run", "--", "frontend-v2")
            assert "PodSecurity" in line
            assert "NET_ADMIN" in line
            assert namespace in line
        assert kube.core.read_namespaced_pod("held", namespace).spec == before
        assert kube.coordination.list_namespaced_lease(namespace).items == []
        child = telepresence.start("ingest", "held", "--docker-run", "--", "frontend-v2")
        try:
            eventually(
                lambda: bool(
                    docker(
                        "ps",
                        "-q",
                        "--filter",
                        "label=telepresence.io/role=handler",
                        "--filter",
                        "label=telepresence.io/connection=e2e",
                    )
                ),
                lambda: child.poll() is None or child.stdout.read(),
            )
            handler = docker(
                "ps",
                "-q",
                "--filter",
                "label=telepresence.io/role=handler",
                "--filter",
                "label=telepresence.io/connection=e2e",
            )
            assert docker("exec", handler, "printenv", "TOLD") == "in a restricted namespace"
            assert docker("exec", handler, "ls", "-d", "/data") == "/data"
        finally:
            stop(child)
    finally:
        telepresence("quit")
