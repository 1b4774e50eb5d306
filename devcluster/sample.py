"""The sample application: its images, its manifests, and waiting for it."""

from __future__ import annotations

from devcluster.binaries import HERE, digest
from devcluster.cluster import Cluster
from devcluster.engine import build

IMAGE = "telepresence/sample:v1"
SOURCE = HERE.parent / "images" / "sample"
WORKLOADS = (
    "deployment/frontend-v1",
    "deployment/backend",
    "statefulset/quotes",
    "deployment/clock",
    "deployment/client",
)


def deploy(cluster: Cluster) -> None:
    """Have the sample application rolled out in the namespace ``default``. DevclusterError if it is not."""
    cluster.running()
    build(str(SOURCE), IMAGE)
    cluster.load([IMAGE])
    manifests = (HERE / "manifests" / "sample.yaml").read_text()
    # The tag stays, so a changed image is told by an annotation of the pods.
    cluster.apply(manifests.replace("SAMPLE_DIGEST", digest(SOURCE)))
    for workload in WORKLOADS:
        cluster.rollout("default", workload)
