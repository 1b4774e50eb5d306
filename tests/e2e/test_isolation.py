"""The laptop's own network stays untouched: compared before, during and after."""

from __future__ import annotations

import subprocess

from tests.e2e import conftest
from tests.e2e.conftest import Command, Kube, eventually, stop


def test_host_network_is_the_same_throughout(nothing_left: None, telepresence: Command, kube: Kube) -> None:
    before = conftest.host.network()
    telepresence("connect", "--docker", "--name", "e2e")
    try:
        assert conftest.host.network() == before
        telepresence("curl", "-sS", "http://frontend-v1/")
        assert conftest.host.network() == before
        child = telepresence.start("replace", "frontend-v1", "--docker-run", "--", "frontend-v2")
        try:
            eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
            assert conftest.host.network() == before
        finally:
            stop(child)
        assert conftest.host.network() == before
    finally:
        telepresence("quit")
    assert conftest.host.network() == before


def test_host_cannot_reach_the_cluster(connection: str, kube: Kube) -> None:
    address = kube.core.read_namespaced_service("frontend-v1", "default").spec.cluster_ip
    done = subprocess.run(["curl", "-sS", "--max-time", "2", f"http://{address}/healthz"], capture_output=True)
    # A gateway on the way out may answer for any address; that is not the cluster.
    assert b'"ok"' not in done.stdout, "a cluster address answered on the host itself"
