"""The whole session of the README on an engine of its own, as a user of that machine has it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from telewire import __version__, names
from tests.engines.inner import DEBIAN, Inner, until
from tests.engines.registry import REPOSITORY, docker

sys.path.insert(0, str(REPOSITORY / "tools"))

from kube import Kube, devcluster_kubeconfig

from devcluster import pki

pytestmark = [pytest.mark.cluster, pytest.mark.parametrize("engine", ["28.5"], indirect=True)]
TELEPRESENCE = str(REPOSITORY / ".venv" / "bin" / "telepresence")
NODE = "devcluster-dev"
APP = "elsewhere"
"""A copy of the sample's frontend, so that nobody else's engagement is met."""


class There:
    """The command in the engine's network namespace, where the ports are that the engine publishes on loopback."""

    def __init__(self, engine: Inner, kubeconfig: str) -> None:
        self._environment = {**os.environ, "KUBECONFIG": kubeconfig, "DOCKER_HOST": engine.host}
        self._program = ["nsenter", "-t", str(engine.pid), "-n", TELEPRESENCE]

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run it to its end, which must be ``code``; return what it printed on stdout."""
        command = [*self._program, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, its output in a pipe."""
        return subprocess.Popen(
            [*self._program, *arguments], env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


@pytest.fixture
def kube() -> Kube:
    """The development cluster, from this machine."""
    path = devcluster_kubeconfig()
    assert os.path.exists(path), "no development cluster: run `make cluster`"
    return Kube(path)


@pytest.fixture
def telepresence(engine: Inner, tmp_path: Path) -> Iterator[There]:
    """The command, with a kubeconfig that leads to the node's own address."""
    docker("build", "-q", "-t", "frontend-v2", str(REPOSITORY / "images" / "frontend-v2"))
    engine.load("frontend-v2")
    address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", NODE).split()[0]
    document = yaml.safe_load(Path(devcluster_kubeconfig()).read_text())
    document["clusters"][0]["cluster"].update({"server": f"https://{address}:6443", "tls-server-name": pki.NODE})
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
    command = There(engine, str(tmp_path / "kubeconfig"))
    yield command
    command("quit", "--stop-daemons")


@pytest.fixture
def app(kube: Kube) -> Iterator[None]:
    """The workload that is replaced, with its Service."""
    original = kube.apps.read_namespaced_deployment("frontend-v1", "default").spec
    original.replicas = 1
    original.selector.match_labels = original.template.metadata.labels = {"app": APP}
    ports = kube.core.read_namespaced_service("frontend-v1", "default").spec.ports
    service = client.V1ServiceSpec(selector={"app": APP}, ports=ports)
    metadata = client.V1ObjectMeta(name=APP)
    kube.apps.create_namespaced_deployment("default", client.V1Deployment(metadata=metadata, spec=original))
    kube.core.create_namespaced_service("default", client.V1Service(metadata=metadata, spec=service))
    try:
        until(quietly(lambda: kube.answers(APP, "v1")), "the workload answers")
        yield
    finally:
        kube.core.delete_namespaced_service(APP, "default")
        kube.apps.delete_namespaced_deployment(APP, "default")


def quietly(holds: Callable[[], bool]) -> Callable[[], object]:
    """Return the condition with an error of the cluster's as one more way not to hold."""

    def condition() -> object:
        try:
            return holds()
        except (RuntimeError, OSError):
            return False

    return condition


def traces(engine: Inner, kube: Kube) -> dict[str, Any]:
    """Return what this engine's connection could have left in the cluster."""
    mine = f"{names.KUBE_LABEL_CLIENT}={names.client_id(engine.docker('info', '-f', '{{.ID}}'), 'there')}"
    (pod,) = kube.pods(APP)
    return {
        "jobs": [job.metadata.name for job in kube.batch.list_namespaced_job("default", label_selector=mine).items],
        "annotations": [key for key in pod.metadata.annotations or {} if "telepresence" in key],
        "images": [container.image for container in pod.spec.containers],
        "uid": pod.metadata.uid,
    }


def test_where_nobody_is_connected(telepresence: There) -> None:
    assert telepresence("status") == "Not connected; run `telepresence connect --docker` first\n"
    assert json.loads(telepresence("status", "--output", "json"))["daemon"]["running"] is False
    assert yaml.safe_load(telepresence("--output", "yaml", "quit")) == {"connections": []}
    assert __version__ in telepresence("version")


def test_the_session(engine: Inner, telepresence: There, kube: Kube, app: None) -> None:
    before = traces(engine, kube)
    telepresence("connect", "--docker", "--name", "there")
    status = json.loads(telepresence("status", "--output", "json"))["daemon"]
    assert status["status"] == "Connected"
    listed = {entry["name"] for entry in json.loads(telepresence("list", "--output", "json"))}
    assert {APP, "frontend-v1", "backend", "quotes", "clock"} <= listed
    for name in (APP, f"{APP}.default.svc.cluster.local"):
        assert '"v1"' in telepresence("curl", "-sS", f"http://{name}/")
    script = "exec 3<>/dev/tcp/backend/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -c 12 <&3; exit 3"
    assert telepresence("docker-run", "--rm", DEBIAN, "bash", "-c", script, code=3) == "HTTP/1.1 200"

    environment = json.loads(kube.get(f"http://{APP}/env"))
    child = telepresence.start("replace", APP, "--docker-run", "--", "-e", "ADDED=here", "frontend-v2")
    try:
        until(quietly(lambda: kube.answers(APP, "v2")), "it is answered there")
        there = json.loads(kube.get(f"http://{APP}/env"))
        for name, value in environment.items():
            if name not in ("PATH", "HOME"):  # set by the runtime from the image, on either side
                assert there.get(name) == value, name
        assert base64.b64decode(there["ADDED"]) == b"here"
        handler = engine.docker("ps", "-q", "--filter", "label=telepresence.io/role=handler")
        assert engine.reads(handler, "/var/run/secrets/kubernetes.io/serviceaccount/namespace") == "default"
        engine.docker("exec", handler, "sh", "-c", "echo from-there >/data/from-there")
        assert kube.run(kube.pods(APP)[0].metadata.name, "cat", "/data/from-there") == "from-there\n"
    finally:
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=90)
    until(quietly(lambda: kube.answers(APP, "v1")), f"the original is back ({said.strip()})")
    telepresence("quit")
    assert engine.docker("ps", "-aq") == ""
    until(quietly(lambda: traces(engine, kube) == before), "the cluster is as it was")
