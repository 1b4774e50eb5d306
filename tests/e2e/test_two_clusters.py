"""Two clusters at once, of the same subnets; the second one has IPv6 as well."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from telewire import names
from tests.e2e.conftest import ROOT, Command, Kube, devcluster_kubeconfig

CLUSTER = CONNECTION = "e2e-six"
NOBODY = "[fd00:10:96::77]"
"""A Service address that no Service has."""


def devcluster(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "devcluster", *words], cwd=ROOT, check=True, capture_output=True, timeout=240)


@pytest.fixture
def six(nothing_left: None) -> Iterator[Kube]:
    """The second cluster."""
    devcluster("down", "--name", CLUSTER)
    try:
        devcluster("up", "--name", CLUSTER, "--dual-stack")
        devcluster("load", "--name", CLUSTER, names.image("agent"))
        devcluster("sample", "--name", CLUSTER)
        found = Kube(devcluster_kubeconfig(CLUSTER))
        try:
            yield found
        finally:
            found.close()
    finally:
        devcluster("down", "--name", CLUSTER)


def test_each_connection_leads_to_its_own_cluster(six: Kube, telepresence: Command, kube: Kube) -> None:
    telepresence("connect", "--docker", "--name", "e2e")
    telepresence("connect", "--docker", "--name", CONNECTION, env={"KUBECONFIG": devcluster_kubeconfig(CLUSTER)})
    try:
        here, there = kube.pods("frontend-v1")[0], six.pods("frontend-v1")[0]
        for use, pod in (("^e2e$", here), (CONNECTION, there)):
            assert pod.metadata.name in telepresence("--use", use, "curl", "-sS", "http://frontend-v1/").stdout
        dns = six.core.list_namespaced_pod("kube-system", label_selector="k8s-app=kube-dns").items[0]
        address = next(one.ip for one in dns.status.pod_ips if ":" in one.ip)
        assert telepresence("--use", CONNECTION, "curl", "-sS", f"http://[{address}]:8181/ready").stdout == "OK"
        telepresence("--use", CONNECTION, "curl", "-sS", f"http://[{address}]:9/", code=7)
        telepresence("--use", CONNECTION, "curl", "-sS", f"http://{NOBODY}/", code=7)
    finally:
        telepresence("--use", CONNECTION, "quit")
        telepresence("--use", "^e2e$", "quit")
