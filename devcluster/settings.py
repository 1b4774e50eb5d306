"""What differs between clusters: subnets and the files that follow from them. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass

import yaml

from telewire.errors import BadRequest

PODS = ("10.244.0.0/16", "fd00:10:244::/56")
SERVICES = ("10.96.0.0/16", "fd00:10:96::/112")
NODE_PODS = ("10.244.0.0/24", "fd00:10:244::/64")
"""What the controller manager gives the first node; there is no other."""
DNS = "10.96.0.10"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return a cluster's name. BadRequest if it cannot be one."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no name for a cluster; use 1 to 32 lower-case letters, digits and hyphens")
    return name


@dataclass(frozen=True)
class Settings:
    """One cluster's name and families."""

    name: str
    dual_stack: bool = False

    @property
    def container(self) -> str:
        """The name of its container."""
        return f"devcluster-{self.name}"

    @property
    def families(self) -> int:
        """How many IP families it has."""
        return 2 if self.dual_stack else 1

    @property
    def service_address(self) -> str:
        """The address of the Service ``kubernetes``."""
        return str(ipaddress.ip_network(SERVICES[0])[1])

    def shell(self) -> str:
        """Return what the node's start script reads."""
        masks = (
            "--node-cidr-mask-size-ipv4=24 --node-cidr-mask-size-ipv6=64"
            if self.dual_stack
            else "--node-cidr-mask-size=24"
        )
        return (
            f"CGROUP=devcluster-{self.name}\nPODS={','.join(PODS[: self.families])}\n"
            f"SERVICES={','.join(SERVICES[: self.families])}\nNODE_MASKS='{masks}'\n"
        )

    def kubelet(self, *, own_cgroups: bool) -> str:
        """Return the kubelet's configuration. ``own_cgroups``: the container has a cgroup namespace (cgroup v2).

        https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
        """
        pki = "/etc/kubernetes/pki"
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{pki}/kubelet-server.key",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "/etc/resolv.conf",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": True,
            "cgroupRoot": "/" if own_cgroups else f"/devcluster-{self.name}",
            "enforceNodeAllocatable": ["pods"],
            "failSwapOn": False,
            "failCgroupV1": False,
            # A container may not set every limit and sysctl; the node works without them.
            "featureGates": {"KubeletInUserNamespace": True},
            "localStorageCapacityIsolation": False,
            # The disk is the developer's: a full one is no reason to evict or to throw images away.
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "shutdownGracePeriod": "0s",
        }
        return yaml.safe_dump(configuration, sort_keys=True)

    def cni(self) -> str:
        """Return the pods' network: a bridge, addresses by host-local. https://www.cni.dev/docs/spec/"""
        ranges = [[{"subnet": subnet}] for subnet in NODE_PODS[: self.families]]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}][: self.families]
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}, indent=1)
