"""What the bench runs in the cluster: a server of bytes, a poller, and a workload with files to engage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Object = dict[str, Any]

IMAGE = "telepresence/sample:v1"
SERVER, POLLER, WEB = "bench-server", "bench-poller", "bench-web"
BULK_PORT, SMALL_PORT, WEB_PORT = 9000, 9001, 80
FILES = 2000
BIG = 200_000_000
SETS, TREES = 3, 9
"""How often files to read and trees to list are there, so that every run meets what no run before has."""

_FILL = f"""
import os
for kind, count, size in (("cat", {SETS}, 2048), ("find", {TREES}, 1)):
    for number in range(count):
        os.makedirs(f"/data/{{kind}}-{{number}}")
        for file in range({FILES}):
            with open(f"/data/{{kind}}-{{number}}/{{file:04}}", "wb") as out:
                out.write(os.urandom(size))
for number in range({SETS}):
    with open(f"/data/big-{{number}}", "wb") as out:
        out.truncate({BIG})
"""


def program(name: str) -> str:
    """Return the text of one of :mod:`bench.programs`."""
    return (Path(__file__).parent / "programs" / f"{name}.py").read_text()


def _container(name: str, **more: Any) -> Object:
    return {"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", **more}


def _pod(name: str, *command: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [_container("main", command=list(command))]},
    }


def _web() -> list[Object]:
    """Return a workload like the sample's frontend: probes each second, a volume, no ``command``, so that it is replaced in place."""
    mounts = [{"name": "data", "mountPath": "/data"}]
    probe = {"httpGet": {"path": "/healthz", "port": "http"}}
    container = _container(
        "web",
        ports=[{"name": "http", "containerPort": 8080}],
        readinessProbe={**probe, "periodSeconds": 1},
        livenessProbe={**probe, "periodSeconds": 2},
        volumeMounts=mounts,
    )
    pod = {
        "terminationGracePeriodSeconds": 5,
        "initContainers": [_container("fill", command=["/usr/bin/python3", "-c", _FILL], volumeMounts=mounts)],
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    labels = {"app": WEB}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": WEB, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": WEB},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": WEB_PORT, "targetPort": "http"}]},
    }
    return [deployment, service]


def everything(namespace: str) -> Object:
    """Return all of it as one list, the namespace first."""
    server = ("/usr/bin/python3", "-c", program("server"), str(BULK_PORT), str(SMALL_PORT))
    idle = ("/usr/bin/python3", "-c", "import threading; threading.Event().wait()")
    objects: list[Object] = [_pod(SERVER, *server), _pod(POLLER, *idle), *_web()]
    for one in objects:
        one["metadata"]["namespace"] = namespace
    first = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    return {"apiVersion": "v1", "kind": "List", "items": [first, *objects]}
