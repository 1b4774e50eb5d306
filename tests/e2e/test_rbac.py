"""The verbs that docs/privileges.md lists are enough, and each one that is missing is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from tests.e2e.conftest import Command, Kube, eventually, stop
from tests.e2e.test_intercept import answered_by

RULES = [
    (["batch"], ["jobs"], ["create", "get", "list", "delete"]),
    ([""], ["pods"], ["get", "list", "watch", "patch"]),
    ([""], ["pods/portforward"], ["create", "get"]),
    (["apps"], ["deployments", "statefulsets", "replicasets", "daemonsets"], ["get", "list"]),
    ([""], ["services"], ["list", "create"]),
    (["coordination.k8s.io"], ["leases"], ["create", "get", "update", "list", "delete"]),
    ([""], ["pods/ephemeralcontainers"], ["patch"]),
]


@pytest.fixture
def role(kube: Kube) -> Iterator[list[client.V1PolicyRule]]:
    rules = [client.V1PolicyRule(api_groups=g, resources=r, verbs=v) for g, r, v in RULES]
    rbac = client.RbacAuthorizationV1Api(kube.core.api_client)
    metadata = client.V1ObjectMeta(name="e2e-user")
    kube.core.create_namespaced_service_account("default", client.V1ServiceAccount(metadata=metadata))
    rbac.create_namespaced_role("default", client.V1Role(metadata=metadata, rules=rules))
    subject = client.RbacV1Subject(kind="ServiceAccount", name="e2e-user", namespace="default")
    reference = client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="e2e-user")
    binding = client.V1RoleBinding(metadata=metadata, role_ref=reference, subjects=[subject])
    rbac.create_namespaced_role_binding("default", binding)
    try:
        yield rules
    finally:
        rbac.delete_namespaced_role_binding("e2e-user", "default")
        rbac.delete_namespaced_role("e2e-user", "default")
        kube.core.delete_namespaced_service_account("e2e-user", "default")


@pytest.fixture
def user(role: list[client.V1PolicyRule], kube: Kube, kubeconfig: str, tmp_path: Path) -> dict[str, str]:
    wanted = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=900))
    token = kube.core.create_namespaced_service_account_token("e2e-user", "default", wanted).status.token
    config = yaml.safe_load(Path(kubeconfig).read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(path)}


def test_listed_verbs_are_enough_for_all_four(
    nothing_left: None, user: dict[str, str], telepresence: Command, kube: Kube
) -> None:
    telepresence("connect", "--docker", "--name", "e2e", env=user)
    try:
        assert "frontend-v1" in telepresence("list").stdout
        assert "v1" in telepresence("curl", "-sS", "http://frontend-v1/").stdout
        for kind in (["intercept", "--port", "8080"], ["replace"]):
            child = telepresence.start(kind[0], "frontend-v1", *kind[1:], "--docker-run", "--", "frontend-v2")
            try:
                eventually(
                    lambda: answered_by(kube, "frontend-v1") == {"v2"},
                    lambda child=child: child.poll() is None or child.stdout.read(),  # type: ignore[misc]
                )
            finally:
                stop(child)
            eventually(lambda: kube.answers("frontend-v1", "v1"))
        for kind in (["wiretap", "--port", "8080"], ["ingest"]):
            done = telepresence(
                kind[0], "frontend-v1", *kind[1:], "--docker-run", "--", "--entrypoint", "printenv", "frontend-v2", "FRONTEND_COLOR"
            )  # fmt: skip
            assert done.stdout.endswith("teal\n")
    finally:
        telepresence("quit")


@pytest.mark.parametrize(
    ("resource", "said"), [("pods/ephemeralcontainers", "ephemeralcontainers"), ("leases", "leases")]
)
def test_missing_verb_is_named(
    resource: str, said: str, nothing_left: None, user: dict[str, str], telepresence: Command, kube: Kube
) -> None:
    rbac = client.RbacAuthorizationV1Api(kube.core.api_client)
    kept = [client.V1PolicyRule(api_groups=g, resources=r, verbs=v) for g, r, v in RULES if resource not in r]
    rbac.patch_namespaced_role("e2e-user", "default", {"rules": kube.core.api_client.sanitize_for_serialization(kept)})
    telepresence("connect", "--docker", "--name", "e2e", env=user)
    try:
        line = telepresence.fails("intercept", "frontend-v1", "--port", "8080", "--docker-run", "--", "frontend-v2")
        assert said in line
        assert "cannot" in line
        assert json.loads(telepresence("status", "--output", "json").stdout)["daemon"]["intercepts"] == []
    finally:
        telepresence("quit")
