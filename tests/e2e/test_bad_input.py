"""Each bad input is one line on stderr that says what, why and what to do; nothing is left half made."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml
from kubernetes import client

from tests.e2e.conftest import Command, Kube


def test_not_connected(nothing_left: None, telepresence: Command) -> None:
    for arguments in (["list"], ["curl", "http://x/"], ["docker-run", "debian"], ["leave", "x"],
                      ["replace", "frontend-v1", "--docker-run", "--", "frontend-v2"]):  # fmt: skip
        assert "telepresence connect --docker" in telepresence.fails(*arguments)


def test_no_cluster(nothing_left: None, telepresence: Command, tmp_path: Path, kubeconfig: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config = yaml.safe_load(Path(kubeconfig).read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free.getsockname()[1]}"
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    line = telepresence.fails("connect", "--docker", "--name", "e2e", env={"KUBECONFIG": str(path)})
    assert "127.0.0.1" in line


def test_no_kubeconfig_and_no_such_context(nothing_left: None, telepresence: Command, tmp_path: Path) -> None:
    line = telepresence.fails("connect", "--docker", env={"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)})
    assert "kubeconfig" in line.lower()
    assert "no-such-context" in telepresence.fails("connect", "--docker", "--context", "no-such-context")


@contextlib.contextmanager
def restricted(kube: Kube, kubeconfig: str, path: Path) -> Iterator[str]:
    """A user who may only look at pods."""
    account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="e2e-restricted"))
    kube.core.create_namespaced_service_account("default", account)
    try:
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
        )
        token = kube.core.create_namespaced_service_account_token("e2e-restricted", "default", request).status.token
        config = yaml.safe_load(Path(kubeconfig).read_text())
        config["users"][0]["user"] = {"token": token}
        path.write_text(yaml.safe_dump(config))
        yield str(path)
    finally:
        kube.core.delete_namespaced_service_account("e2e-restricted", "default")


def test_no_permission_names_the_verb(
    nothing_left: None, telepresence: Command, kube: Kube, kubeconfig: str, tmp_path: Path
) -> None:
    with restricted(kube, kubeconfig, tmp_path / "config") as path:
        line = telepresence.fails("connect", "--docker", "--name", "e2e", env={"KUBECONFIG": path})
    assert "e2e-restricted" in line
    assert "create" in line or "list" in line


def test_no_docker(telepresence: Command) -> None:
    line = telepresence.fails("connect", "--docker", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert "Docker" in line
    assert "/nowhere/docker.sock" in line


def test_no_plugin(nothing_left: None, telepresence: Command) -> None:
    def plugin(verb: str, *options: str) -> None:
        subprocess.run(
            ["docker", "plugin", verb, *options, "teleroute:latest"], check=True, capture_output=True, timeout=90
        )

    plugin("disable")
    try:
        line = telepresence.fails("connect", "--docker", "--name", "e2e")
    finally:
        plugin("enable")
    assert "teleroute" in line
    assert "docker plugin enable" in line


def test_unknown_workload_with_the_nearest_names(connection: str, telepresence: Command) -> None:
    line = telepresence.fails("replace", "frontend-v", "--docker-run", "--", "frontend-v2")
    assert "frontend-v1" in line


def test_detached_handler_is_refused(connection: str, telepresence: Command) -> None:
    for flag in ("-d", "--detach", "-itd"):
        line = telepresence.fails("replace", "frontend-v1", "--docker-run", "--", flag, "frontend-v2")
        assert "foreground" in line or "detach" in line


def test_no_image_and_image_that_does_not_exist(connection: str, telepresence: Command, kube: Kube) -> None:
    before = kube.traces()
    assert "image" in telepresence.fails("replace", "frontend-v1", "--docker-run", "--", "-e", "A=B")
    line = telepresence.fails("replace", "frontend-v1", "--docker-run", "--", "no-such-image-anywhere:1", timeout=180)
    assert "no-such-image-anywhere:1" in line
    assert kube.traces() == before


def test_port_in_use(connection: str, telepresence: Command, kube: Kube) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = telepresence.fails(
            "replace", "frontend-v1", "--docker-run", "--", "-p", f"127.0.0.1:{port}:8080", "frontend-v2"
        )
    assert str(port) in line
    listing = ["docker", "ps", "-aq", "--filter", "label=telepresence.io/role=handler"]
    handlers = subprocess.run(listing, capture_output=True, check=True)
    assert handlers.stdout == b""
    assert "v1" in kube.get("http://frontend-v1/")


def test_several_containers_and_none_chosen(connection: str, telepresence: Command, kube: Kube) -> None:
    pod = {
        "metadata": {"name": "e2e-pair", "labels": {"app": "e2e-pair"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": name, "image": kube.pods("frontend-v1")[0].spec.containers[0].image, "imagePullPolicy": "IfNotPresent",
             "env": [{"name": "PORT", "value": port}]}
            for name, port in (("left", "8081"), ("right", "8082"))
        ]},
    }  # fmt: skip
    kube.core.create_namespaced_pod("default", pod)
    try:
        line = telepresence.fails("replace", "e2e-pair", "--docker-run", "--", "frontend-v2")
    finally:
        kube.core.delete_namespaced_pod("e2e-pair", "default", grace_period_seconds=0)
    assert "--container" in line
    assert "left" in line
    assert "right" in line


def test_replaced_already(replaced: subprocess.Popen[str], telepresence: Command) -> None:
    line = telepresence.fails("replace", "frontend-v1", "--docker-run", "--", "--name", "e2e-second", "frontend-v2")
    assert "frontend-v1" in line


def test_unknown_options_are_refused_as_unknown(nothing_left: None, telepresence: Command) -> None:
    assert "--no-such-option" in telepresence.fails("connect", "--docker", "--no-such-option")
    assert "--mechanism" in telepresence.fails("replace", "x", "--mechanism", "tcp", "--docker-run", "--", "y")
    assert "connect" in telepresence.fails("conect", "--docker")


def test_token_never_shows(connection: str, telepresence: Command) -> None:
    environment = json.loads(
        subprocess.run(
            ["docker", "inspect", "-f", "{{json .Config.Env}}", f"tp-{connection}"], capture_output=True, check=True
        ).stdout
    )
    token = next(entry.partition("=")[2] for entry in environment if entry.startswith("TELEPRESENCE_TOKEN="))
    seen = telepresence("status", "--output", "json").stdout + telepresence("status").stdout
    assert token not in seen
    assert base64.b64encode(token.encode()).decode() not in seen
