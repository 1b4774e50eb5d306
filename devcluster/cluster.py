"""A cluster's life: up, down, what it says of itself, images into it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from devcluster import base, binaries, pki
from devcluster.binaries import BUILD, HERE, digest
from devcluster.engine import DevclusterError, build, client, has_image, run_in, told
from devcluster.settings import Settings
from telewire.errors import NotFound

LABEL = "telepresence.io/devcluster"
LABEL_DUAL_STACK = "telepresence.io/devcluster-dual-stack"
PAUSE, COREDNS = "devcluster/pause:1", "devcluster/coredns:1"
READY_TIMEOUT = 120.0
REACHABLE_TIMEOUT = 300.0
LOADED = "/var/lib/containerd/devcluster-loaded.json"
_DROPPED = ("SYS_RESOURCE",)
"""What an engine in a container itself may lack, and the node can do without."""


class Cluster:
    """One cluster by its name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.api = client()

    @property
    def kubeconfig(self) -> Path:
        """Where the kubeconfig for this machine is."""
        return BUILD / self.settings.name / "kubeconfig"

    def inspect(self) -> dict[str, Any] | None:
        """Return the container; None if there is none. DevclusterError if one of that name is not ours."""
        try:
            with told(f"inspecting the container {self.settings.container}"):
                found: dict[str, Any] = self.api.inspect_container(self.settings.container)
        except NotFound:
            return None
        if (found["Config"].get("Labels") or {}).get(LABEL) != self.settings.name:
            raise DevclusterError(
                f"there is a container {self.settings.container} that is no cluster of ours; remove it"
            )
        return found

    # Up.

    def up(self) -> None:
        """Have the cluster: made, started again, or found running. DevclusterError says what is wrong."""
        found = self.inspect()
        if found is None:
            self._create()
        else:
            was = (found["Config"]["Labels"] or {}).get(LABEL_DUAL_STACK) == "true"
            if was != self.settings.dual_stack:
                has = "has" if was else "does not have"
                raise DevclusterError(
                    f"cluster {self.settings.name} {has} two IP families; `down` it first, or choose another --name"
                )
            if not found["State"]["Running"]:
                # A cluster keeps its image, which an older version may have made; the scripts are this version's.
                scripts = {script.name: script.read_bytes() for script in (HERE / "node").glob("*.sh")}
                with told("writing the node's scripts"):
                    self.api.put_archive(self.settings.container, "/", _archive(scripts))
                with told(f"starting the container {self.settings.container}"):
                    self.api.start(self.settings.container)
        self._wait_api()
        self.load([PAUSE, COREDNS])
        self.apply((HERE / "manifests" / "system.yaml").read_text())
        self._wait_ready()
        authority = self._write_kubeconfig()
        self._wait_reachable(authority)

    def _create(self) -> None:
        image = self.node_image()
        attempts: list[dict[str, Any]] = [{"privileged": True}, {"cap_add": ["ALL"], "cap_drop": list(_DROPPED)}]
        while attempts:
            container = self._make(image, attempts.pop(0))
            try:
                with told(f"starting the container {self.settings.container}"):
                    self.api.start(container)
                return
            except DevclusterError as error:
                with told("removing the container that did not start"):
                    self.api.remove_container(container, v=True, force=True)
                if not attempts or "cap" not in str(error):
                    raise

    def _make(self, image: str, rights: Mapping[str, Any]) -> str:
        with told("asking the engine"):
            second = self.api.info().get("CgroupVersion") == "2"
        sysctls = {"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv6.conf.all.forwarding": "1"}
        with told(f"creating the container {self.settings.container}"):
            host = self.api.create_host_config(
                **rights,
                security_opt=["seccomp=unconfined", "apparmor=unconfined"],
                binds=[] if second else ["/sys/fs/cgroup:/sys/fs/cgroup:rw"],
                devices=["/dev/fuse", "/dev/net/tun", "/dev/kmsg"],
                tmpfs={"/run": "", "/tmp": ""},
                port_bindings={"6443/tcp": ("127.0.0.1", _free_port())},
                sysctls=sysctls if self.settings.dual_stack else None,
            )
            host["CgroupnsMode"] = "private" if second else "host"
            host["MaskedPaths"] = host["ReadonlyPaths"] = []  # what the command calls systempaths=unconfined
            container = self.api.create_container(
                image,
                name=self.settings.container,
                hostname=pki.NODE,
                host_config=host,
                ports=[(6443, "tcp")],
                # Overlay file systems cannot lie on one another, and the data has to outlive a stop.
                volumes=["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd"],
                labels={LABEL: self.settings.name, LABEL_DUAL_STACK: str(self.settings.dual_stack).lower()},
            )["Id"]
        files = {
            f"kubernetes/{path}": content
            for path, content in pki.files(f"devcluster-{self.settings.name}", self.settings.service_address).items()
        }
        files["devcluster/settings"] = self.settings.shell().encode()
        files["devcluster/kubelet.yaml"] = self.settings.kubelet(own_cgroups=second).encode()
        files["cni/net.d/10-pods.conflist"] = self.settings.cni().encode()
        with told("writing the node's files"):
            self.api.put_archive(container, "/etc", _archive(files))
        return str(container)

    def node_image(self) -> str:
        """Return the node's image, with those of pods that every cluster needs; built if anything changed."""
        base.ensure(self.api)
        kube, coredns = binaries.build("kube"), binaries.build("coredns")
        tag = f"devcluster/node:{digest(HERE / 'node')}-{kube.name.removeprefix('kube-')}"
        for reference, folder, program in ((COREDNS, "coredns", coredns), (PAUSE, "pause", None), (tag, "node", kube)):
            wanted = digest(HERE / folder) if program is None else f"{digest(HERE / folder)}-{program.name}"
            if not self._is_built(reference, wanted):
                print(f"building the image {reference}", file=sys.stderr)
                _build(reference, HERE / folder, folder, program, wanted)
        return tag

    def _is_built(self, reference: str, wanted: str) -> bool:
        try:
            with told(f"inspecting the image {reference}"):
                labels = self.api.inspect_image(reference)["Config"].get("Labels") or {}
        except NotFound:
            return False
        return bool(labels.get(LABEL) == wanted)

    def _wait(self, what: str, *command: str) -> str:
        """Run a command in the node until it succeeds and prints something. DevclusterError with its last words."""
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            try:
                if output := run_in(self.api, self.settings.container, *command):
                    return output
                last = "no answer"
            except DevclusterError as error:
                last = str(error)
            found = self.inspect()
            if found is None or not found["State"]["Running"]:
                raise DevclusterError(f"the container {self.settings.container} ended; see `docker logs` of it")
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"{what} is not ready after {READY_TIMEOUT:.0f} s ({last}); see /var/log/kubernetes in {self.settings.container}"
                )
            time.sleep(0.2)

    def _wait_api(self) -> None:
        self._wait("the API server", "kubectl", "get", "--raw", "/readyz")
        self._wait("the namespace", "kubectl", "get", "namespace", "default", "kube-system", "-o", "name")

    def _wait_ready(self) -> None:
        # Docker's time has nanoseconds, Kubernetes' ends at the second; both are UTC, so they compare as text.
        since = self.running()["State"]["StartedAt"][: len("2006-01-02T15:04:05")]
        deadline = time.monotonic() + READY_TIMEOUT
        while not is_current(
            json.loads(self._wait("the node", "kubectl", "get", "nodes,pods", "-A", "-o", "json")), since
        ):
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"the node is not ready after {READY_TIMEOUT:.0f} s; see /var/log/kubernetes/kubelet.log"
                )
            time.sleep(0.2)
        self.rollout("kube-system", "deployment/coredns")

    def _wait_reachable(self, authority: str) -> None:
        """Wait until the API server answers here as it does in the node.

        After a crash of the whole engine the kernel may keep the network of the container's earlier run for two minutes: as
        long as an orphaned TCP connection in it is retried. Until then two interfaces on Docker's bridge have one address.
        """
        host, port = "127.0.0.1", self.port()
        context = ssl.create_default_context(cadata=authority)
        in_a_row, wanted, last = 0, 1, ""
        deadline = time.monotonic() + REACHABLE_TIMEOUT
        while in_a_row < wanted:
            if not (failure := _try(host, port, context)):
                in_a_row += 1
            else:
                if wanted == 1:
                    print(f"waiting for the API server to answer on {host}:{port}", file=sys.stderr)
                in_a_row, wanted, last = 0, 10, failure
            if time.monotonic() > deadline:
                raise DevclusterError(
                    f"the API server answers in {self.settings.container} but not on {host}:{port} after "
                    f"{REACHABLE_TIMEOUT:.0f} s ({last}); see whether a firewall or another container of the same address is in the way"
                )
            if in_a_row < wanted:
                time.sleep(0.2)

    def rollout(self, namespace: str, workload: str) -> None:
        """Wait until a workload is rolled out. DevclusterError if it is not."""
        run_in(
            self.api,
            self.settings.container,
            "kubectl",
            "-n",
            namespace,
            "rollout",
            "status",
            workload,
            "--timeout=120s",
        )

    def apply(self, manifests: str) -> None:
        """Hand manifests to the cluster. DevclusterError in kubectl's words if it refuses."""
        done = self.kubectl("apply", "-f", "-", given=manifests, capture_output=True)
        if done.returncode:
            raise DevclusterError(f"the cluster refuses a manifest: {_last(done.stderr)}")

    def kubectl(self, *arguments: str, given: str | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the node; the exit code is the caller's to look at."""
        terminal = ["-t"] if given is None and sys.stdin.isatty() and sys.stdout.isatty() else []
        command = ["docker", "exec", "-i", *terminal, self.settings.container, "kubectl", *arguments]
        return subprocess.run(command, input=given, text=True, **more)

    def _write_kubeconfig(self) -> str:
        """Write the kubeconfig for this machine; return the certificate authority in it, PEM."""
        text = run_in(self.api, self.settings.container, "cat", "/etc/kubernetes/admin.conf")
        document = yaml.safe_load(text)
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port()}"
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        beside = self.kubeconfig.with_suffix(".new")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            yaml.safe_dump(document, file, sort_keys=False)
        beside.rename(self.kubeconfig)
        return base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]).decode()

    def port(self) -> int:
        """Return the API server's port on this machine's loopback. DevclusterError if the cluster does not run."""
        found = self.running()
        return int(found["NetworkSettings"]["Ports"]["6443/tcp"][0]["HostPort"])

    def running(self) -> dict[str, Any]:
        """Return the container, which runs. DevclusterError if it does not."""
        found = self.inspect()
        if found is None or not found["State"]["Running"]:
            state = "does not exist" if found is None else "is stopped"
            raise DevclusterError(f"cluster {self.settings.name} {state}; `python -m devcluster up` brings it up")
        return found

    # Images.

    def load(self, references: list[str]) -> None:
        """Bring images of the engine into the cluster; those that it has are left alone. NotFound if the engine lacks one."""
        self.running()
        loaded = self._loaded()
        missing = {}
        for reference in references:
            identity = has_image(self.api, reference)
            if identity is None:
                raise NotFound(f"the Docker Engine has no image {reference}; build or pull it first")
            if loaded.get(reference) != identity:
                missing[reference] = identity
        if not missing:
            return
        with tempfile.TemporaryFile() as errors:
            save = subprocess.Popen(["docker", "save", *missing], stdout=subprocess.PIPE, stderr=errors)
            into = ["docker", "exec", "-i", self.settings.container, "ctr", "-n", "k8s.io", "images", "import", "-"]
            done = subprocess.run(into, stdin=save.stdout, stdout=subprocess.DEVNULL, stderr=errors)
            if save.stdout:
                save.stdout.close()
            if save.wait() or done.returncode:
                errors.seek(0)
                raise DevclusterError(
                    f"loading {', '.join(missing)} failed: {_last(errors.read().decode(errors='replace'))}"
                )
        with told("noting what is loaded"):
            content = json.dumps({**loaded, **missing}).encode()
            self.api.put_archive(
                self.settings.container, os.path.dirname(LOADED), _archive({os.path.basename(LOADED): content})
            )

    def _loaded(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(run_in(self.api, self.settings.container, "cat", LOADED))
        except (DevclusterError, ValueError):
            return {}
        return found

    # Down.

    def down(self) -> None:
        """Remove the cluster and its data; no error if it is gone."""
        found = self.inspect()
        if found is not None:
            if found["State"]["Running"]:
                run_in(self.api, self.settings.container, "sh", "/stop.sh")
            with told(f"removing the container {self.settings.container}"):
                self.api.remove_container(self.settings.container, v=True, force=True)
        self.kubeconfig.unlink(missing_ok=True)
        if self.kubeconfig.parent.is_dir() and not any(self.kubeconfig.parent.iterdir()):
            self.kubeconfig.parent.rmdir()


def is_current(found: Mapping[str, Any], since: str) -> bool:
    """Whether nodes are ready, and nodes and pods tell of the time after ``since`` (UTC, RFC 3339, to the second).

    A node that was stopped and started shows what it was before, also as ready, until its kubelet reports anew.
    """
    nodes = [item for item in found["items"] if item["kind"] == "Node"]
    conditions = [one for node in nodes for one in node["status"].get("conditions", []) if one["type"] == "Ready"]
    running = [
        state["running"]["startedAt"]
        for item in found["items"]
        if item["kind"] == "Pod"
        for one in item["status"].get("containerStatuses", [])
        if "running" in (state := one["state"])
    ]
    return (
        bool(conditions)
        and all(one["status"] == "True" and one["lastHeartbeatTime"] >= since for one in conditions)
        and all(started >= since for started in running)
    )


def _try(host: str, port: int, context: ssl.SSLContext) -> str:
    """Return why nobody answers there whom ``context`` trusts, nothing if somebody does."""
    try:
        with socket.create_connection((host, port), 3) as plain, context.wrap_socket(plain, server_hostname=host):
            return ""
    except OSError as error:
        return str(error) or type(error).__name__


def all_names() -> list[str]:
    """Return the names of all clusters that the engine has."""
    with told("listing the clusters"):
        found = client().containers(all=True, filters={"label": LABEL})
    return sorted(container["Labels"][LABEL] for container in found)


def _build(tag: str, folder: Path, name: str, program: Path | None, wanted: str) -> None:
    """Build an image from a folder, with a program beside its files."""
    with tempfile.TemporaryDirectory(dir=BUILD) as context:
        for file in folder.iterdir():
            if file.is_file() and file.suffix not in (".go", ".mod", ".sum"):
                os.link(file, os.path.join(context, file.name))
        if program is not None:
            os.link(program, os.path.join(context, name if name != "node" else "kube"))
        dockerfile = Path(context, "Dockerfile")
        text = dockerfile.read_text()
        dockerfile.unlink()
        dockerfile.write_text(f'{text}LABEL {LABEL}="{wanted}"\n')
        build(context, tag)


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o600 if path.endswith((".key", ".conf")) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last(text: str) -> str:
    lines = [re.sub(r"\s+", " ", line) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
