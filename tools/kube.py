"""The little of Kubernetes that the demo and the end-to-end tests look at, by the official client."""

from __future__ import annotations

import os
import time
from typing import Any

from kubernetes import client, config
from kubernetes.stream import stream


class Kube:
    """A cluster as one kubeconfig context sees it."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> None:
        api = self._api = config.new_client_from_config(config_file=kubeconfig, context=context)
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self.batch = client.BatchV1Api(api)
        self.coordination = client.CoordinationV1Api(api)
        contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
        chosen = next((c for c in contexts if c["name"] == context), active)
        self.context: str = chosen["name"]
        self.namespace = namespace or chosen["context"].get("namespace", "default")

    def close(self) -> None:
        """Close all connections."""
        self._api.rest_client.pool_manager.clear()

    def pods(self, app: str) -> list[Any]:
        """Return the running pods with the label ``app``, those that are going away left out."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"app={app}").items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None and pod.status.phase == "Running"]

    def run(self, pod: str, *command: str, container: str | None = None, timeout: float = 60) -> str:
        """Run ``command`` in ``pod``; return its standard output, raise RuntimeError if it fails."""
        extra = {"container": container} if container else {}
        answer = stream(
            self.core.connect_get_namespaced_pod_exec, pod, self.namespace, command=list(command),
            stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False, **extra,
        )  # fmt: skip
        try:
            answer.run_forever(timeout=timeout)
            out, err, code = answer.read_stdout(), answer.read_stderr(), answer.returncode
        finally:
            answer.close()
            answer.sock.shutdown()  # after the server's close frame close() alone leaves the socket open
        if code != 0:
            raise RuntimeError(f"{' '.join(command)} in {pod} ended with {code}: {err.strip() or out.strip()}")
        return str(out)

    def get(self, url: str) -> str:
        """GET ``url`` from the client pod, which is another pod than any that is engaged."""
        return self.run(self.pods("client")[0].metadata.name, "curl", "-sS", "--max-time", "10", url)

    def answers(self, app: str, version: str) -> bool:
        """Whether ``app``, a Service and its pods, is answered by ``version`` for good: its pods are ready, and so is the Service.

        A container that was restarted is not ready for a moment, and the Service knows it a moment later.
        """
        for _ in range(3):
            pods = self.pods(app)
            states = [pod.status.container_statuses[0] for pod in pods]
            settled = all(
                state.ready and state.image.endswith(pod.spec.containers[0].image.removeprefix("docker.io/"))
                for state, pod in zip(states, pods, strict=True)
            )
            if not pods or not settled or f'"{version}"' not in self.get(f"http://{app}/"):
                return False
            time.sleep(0.4)
        return True

    def traces(self) -> dict[str, Any]:
        """Return everything in the namespace that an engagement could have changed, to be compared."""
        pods: dict[str, list[Any]] = {}
        for pod in self.core.list_namespaced_pod(self.namespace).items:
            if pod.metadata.deletion_timestamp is not None:
                continue
            annotations = {k: v for k, v in (pod.metadata.annotations or {}).items() if "telepresence" in k}
            images = [container.image for container in pod.spec.containers]
            # A controller may have made a new pod of the same kind meanwhile.
            owner = (pod.metadata.labels or {}).get("app") or pod.metadata.name
            pods.setdefault(owner, []).append((images, annotations))
        jobs = [job.metadata.name for job in self.batch.list_namespaced_job(self.namespace).items]
        leases = [lease.metadata.name for lease in self.coordination.list_namespaced_lease(self.namespace).items]
        templates = {}
        for kind in (self.apps.list_namespaced_deployment, self.apps.list_namespaced_stateful_set):
            for workload in kind(self.namespace).items:
                annotations = {k: v for k, v in (workload.metadata.annotations or {}).items() if "telepresence" in k}
                template = self._api.sanitize_for_serialization(workload.spec.template)
                templates[workload.metadata.name] = (template, annotations)
        return {"pods": pods, "jobs": jobs, "leases": leases, "workloads": templates}

    def settled(self, expected: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
        """Return :meth:`traces`, waited for until they equal ``expected`` or ``seconds`` have passed."""
        deadline = time.monotonic() + seconds
        while (seen := self.traces()) != expected and time.monotonic() < deadline:
            time.sleep(0.5)
        return seen


def devcluster_kubeconfig(name: str = "dev") -> str:
    """Return where the development cluster ``name`` keeps its kubeconfig."""
    return os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build", "devcluster", name, "kubeconfig"
    )
