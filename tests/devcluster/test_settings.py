"""What differs between clusters: names, subnets, and the files that follow from them."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devcluster import settings
from devcluster.settings import Settings, check_name
from telewire.errors import BadRequest

BOTH = pytest.mark.parametrize("dual", [False, True])


def network(text: str) -> Any:
    return ipaddress.ip_network(text)


@pytest.mark.parametrize("name", ["a", "dev", "0", "a-b", "a--b", "9a", "a" * 32])
def test_names_that_can_be(name: str) -> None:
    assert check_name(name) == name
    assert Settings(name).container == f"devcluster-{name}"


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "a.b", "-a", "a-", "a" * 33, "a/b", "../a", "a b", "a\n", "é", "a;b", "$(x)"]
)
def test_names_that_cannot_be_are_told_in_one_line(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_name(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_a_name_that_passes_is_a_host_name_and_a_file_name(name: str) -> None:
    try:
        check_name(name)
    except BadRequest:
        return
    assert len(name) <= 32
    assert name.isascii()
    assert name.lower() == name
    assert not {*name} - {*"abcdefghijklmnopqrstuvwxyz0123456789-"}
    assert name.strip("-") == name


@BOTH
def test_the_start_script_reads_the_settings(dual: bool) -> None:
    script = Settings("dev", dual).shell() + 'printf "%s\\n" "$CGROUP" "$PODS" "$SERVICES" "$NODE_MASKS"'
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    cgroup, pods, services, masks = done.stdout.splitlines()
    assert cgroup == "devcluster-dev"
    assert pods.split(",") == list(settings.PODS[: 1 + dual])
    assert services.split(",") == list(settings.SERVICES[: 1 + dual])
    families = ["ipv4", "ipv6"] if dual else []
    assert [f"--node-cidr-mask-size-{family}" in masks for family in families] == [True] * len(families)
    assert masks.startswith("--node-cidr-mask-size")


def test_the_subnets_fit_one_another() -> None:
    for pods, services, node in zip(settings.PODS, settings.SERVICES, settings.NODE_PODS, strict=True):
        assert network(node).subnet_of(network(pods))
        assert not network(pods).overlaps(network(services))
        assert str(network(node).network_address) == str(network(pods).network_address)
    assert ipaddress.ip_address(settings.DNS) in network(settings.SERVICES[0])
    assert Settings("a").service_address == Settings("a", dual_stack=True).service_address == "10.96.0.1"
    assert Settings("a").service_address != settings.DNS


@BOTH
def test_pods_get_an_address_of_each_family(dual: bool) -> None:
    document = json.loads(Settings("dev", dual).cni())
    bridge, portmap = document["plugins"]
    subnets = [one["subnet"] for group in bridge["ipam"]["ranges"] for one in group]
    assert subnets == list(settings.NODE_PODS[: 1 + dual])
    assert len(bridge["ipam"]["ranges"]) == 1 + dual  # one address from each range set
    assert [route["dst"] for route in bridge["ipam"]["routes"]] == ["0.0.0.0/0", "::/0"][: 1 + dual]
    assert portmap["capabilities"] == {"portMappings": True}


@pytest.mark.parametrize(("own", "root"), [(True, "/"), (False, "/devcluster-dev")])
def test_the_kubelets_configuration(own: bool, root: str) -> None:
    document = yaml.safe_load(Settings("dev").kubelet(own_cgroups=own))
    assert (document["kind"], document["cgroupRoot"]) == ("KubeletConfiguration", root)
    assert document["clusterDNS"] == [settings.DNS]
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert document["authorization"] == {"mode": "Webhook"}


def test_clusters_are_told_apart() -> None:
    one, two = Settings("one"), Settings("two")
    assert one.container != two.container
    assert one.shell() != two.shell()
    assert one.kubelet(own_cgroups=False) != two.kubelet(own_cgroups=False)
