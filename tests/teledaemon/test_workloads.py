"""Workloads: found by name, their pods told from others', and why one cannot be engaged."""

from __future__ import annotations

from typing import Any

import pytest

from teledaemon import workloads
from teledaemon.kube import Cluster
from teledaemon.workloads import KINDS, ContainerNotChosen, UnknownWorkload, Workload
from telewire.errors import BadRequest, Forbidden
from tests.teledaemon.conftest import ApiServer

Object = dict[str, Any]
SPEC: Object = {"containers": [{"name": "app", "image": "a:1"}]}


def made(name: str, *, owner: tuple[str, str] | None = None, labels: Object | None = None, **more: Any) -> Object:
    metadata: Object = {"name": name, "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    selector = {"matchLabels": {"app": name}}
    return {"metadata": metadata, "spec": {"selector": selector, "template": {"spec": SPEC}, **more}}


def pod(name: str, *, owner: tuple[str, str] | None = None, ready: bool = True, **metadata: Any) -> Object:
    one = made(name, owner=owner)
    one["metadata"].update(metadata)
    one["spec"] = SPEC
    one["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return one


def workload(kind: str, item: Object) -> Workload:
    return Workload(kind, item["metadata"]["name"], "default", item)


@pytest.fixture
def there(server: ApiServer) -> ApiServer:
    """A namespace with one workload of each kind."""
    where = {kind: path for kind, path in KINDS.items() if kind != "Pod"}
    server.put("/apis/apps/v1/namespaces/default/deployments", made("frontend-v1"), made("frontend-v2"), made("both"))
    server.put("/apis/apps/v1/namespaces/default/statefulsets", made("quotes"), made("both"))
    server.put("/apis/apps/v1/namespaces/default/daemonsets", made("each-node"))
    owned = made("frontend-v1-5d8", owner=("Deployment", "frontend-v1"))
    server.put("/apis/apps/v1/namespaces/default/replicasets", owned, made("lone-set"))
    ours = pod("tel-gateway", labels={"app.kubernetes.io/managed-by": "telepresence"})
    server.put(
        "/api/v1/namespaces/default/pods",
        pod("frontend-v1-5d8-x", owner=("ReplicaSet", "frontend-v1-5d8")),
        pod("bare"),
        pod("ending", deletionTimestamp="2026-01-01T00:00:00Z"),
        ours,
    )
    assert len(where) == 4
    return server


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"matchLabels": {"app": "x", "tier": "web"}}, "app=x,tier=web"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, "a in (1,2)"),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, "a notin (1)"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "a"),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, "!a"),
        ({"matchLabels": {"x": ""}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}, "x=,a"),
        ({}, ""),
    ],
)
def test_a_selector_as_text(spec: Object, text: str) -> None:
    assert workloads.selector(spec) == text


def test_a_bare_pod_selects_itself_by_its_labels() -> None:
    one = workload("Pod", {"metadata": {"name": "bare", "labels": {"a": "1", "b": "2"}}, "spec": SPEC})
    assert one.selector == "a=1,b=2"
    assert one.has({"metadata": {"name": "bare"}})
    assert not one.has({"metadata": {"name": "other", "labels": {"a": "1", "b": "2"}}})
    assert one.template is one.object["spec"]


@pytest.mark.parametrize(
    ("kind", "owner", "mine"),
    [
        ("Deployment", ("ReplicaSet", "web-5d8"), True),
        ("Deployment", ("ReplicaSet", "web-api-5d8"), False),
        ("Deployment", ("ReplicaSet", "web"), False),
        ("Deployment", ("StatefulSet", "web-5d8"), False),
        ("Deployment", None, False),
        ("StatefulSet", ("StatefulSet", "web"), True),
        ("StatefulSet", ("DaemonSet", "web"), False),
        ("DaemonSet", ("DaemonSet", "web"), True),
        ("ReplicaSet", ("ReplicaSet", "web"), True),
    ],
)
def test_a_pod_belongs_to_whom_its_controller_tells(kind: str, owner: tuple[str, str] | None, mine: bool) -> None:
    assert workload(kind, made("web")).has(pod("web-5d8-x", owner=owner)) is mine


def test_the_only_container_need_not_be_chosen() -> None:
    one = workload("Deployment", made("web"))
    assert one.container(None) == one.container("app") == "app"
    with pytest.raises(ContainerNotChosen) as caught:
        one.container("side")
    assert caught.value.containers == ["app"]
    assert caught.value.code == "bad-request"


def test_several_containers_have_to_be_chosen_from() -> None:
    two = made("web", template={"spec": {"containers": [{"name": "app"}, {"name": "side"}]}})
    with pytest.raises(ContainerNotChosen, match="app, side") as caught:
        workload("Deployment", two).container(None)
    assert caught.value.containers == ["app", "side"]
    assert workload("Deployment", two).container("side") == "side"


@pytest.mark.parametrize(
    ("kind", "item", "replicas", "ready", "reason"),
    [
        ("Deployment", {**made("a", replicas=3), "status": {"readyReplicas": 2}}, 3, 2, None),
        ("Deployment", {**made("a", replicas=3), "status": {}}, 3, 0, "no pod is ready"),
        ("Deployment", made("a", replicas=0), 0, 0, "it is scaled to zero"),
        ("StatefulSet", {**made("a"), "status": {"readyReplicas": 1}}, 1, 1, None),
        ("DaemonSet", {**made("a"), "status": {"desiredNumberScheduled": 2, "numberReady": 2}}, 2, 2, None),
        ("DaemonSet", made("a"), 0, 0, "it is scaled to zero"),
        ("Pod", pod("a"), 1, 1, None),
        ("Pod", pod("a", ready=False), 1, 0, "no pod is ready"),
        (
            "Deployment",
            made("a", template={"spec": {**SPEC, "hostNetwork": True}}),
            1,
            0,
            "its pods use the host's network",
        ),
    ],
)
def test_what_is_told_of_a_workload(kind: str, item: Object, replicas: int, ready: int, reason: str | None) -> None:
    assert workloads.describe(workload(kind, item), ["e"]) == {
        "name": "a",
        "kind": kind,
        "namespace": "default",
        "replicas": replicas,
        "ready": ready,
        "containers": ["app"],
        "engagements": ["e"],
        "reason": reason,
    }


@pytest.mark.usefixtures("there")
async def test_all_but_what_another_controls_or_we_made(cluster: Cluster) -> None:
    found = [(one.name, one.kind) for one in await workloads.list_all(cluster, "default")]
    assert found == [
        ("bare", "Pod"),
        ("both", "Deployment"),
        ("both", "StatefulSet"),
        ("each-node", "DaemonSet"),
        ("frontend-v1", "Deployment"),
        ("frontend-v2", "Deployment"),
        ("lone-set", "ReplicaSet"),
        ("quotes", "StatefulSet"),
    ]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("quotes", "StatefulSet"),
        ("both", "Deployment"),
        ("deployment/both", "Deployment"),
        ("statefulset/both", "StatefulSet"),
        ("StatefulSets/both", "StatefulSet"),
        ("pod/bare", "Pod"),
    ],
)
async def test_a_name_finds_one_of_its_kind(cluster: Cluster, name: str, kind: str) -> None:
    found = await workloads.find(cluster, "default", name)
    assert (found.kind, found.name) == (kind, name.rpartition("/")[2])


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("frontend", ["frontend-v2", "frontend-v1"]),
        ("qoutes", ["quotes"]),
        ("daemonset/quotes", ["quotes"]),
        ("zzz", []),
        ("", []),
    ],
)
async def test_an_unknown_name_brings_the_nearest(cluster: Cluster, name: str, nearest: list[str]) -> None:
    with pytest.raises(UnknownWorkload) as caught:
        await workloads.find(cluster, "default", name)
    assert sorted(caught.value.nearest) == sorted(nearest)
    assert caught.value.code == "not-found"
    assert all(one in str(caught.value) for one in nearest)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("there")
async def test_an_unknown_kind_is_a_bad_request(cluster: Cluster) -> None:
    with pytest.raises(BadRequest, match="'cronjob' is no kind of workload"):
        await workloads.find(cluster, "default", "cronjob/x")


async def test_what_may_not_be_listed_is_left_out(server: ApiServer, cluster: Cluster) -> None:
    with pytest.raises(Forbidden):
        await workloads.list_all(cluster, "default")
    server.put("/apis/apps/v1/namespaces/default/statefulsets", made("quotes"))
    assert [one.name for one in await workloads.list_all(cluster, "default")] == ["quotes"]


async def test_a_workloads_pods_are_its_own_and_stay(server: ApiServer, cluster: Cluster) -> None:
    owner = ("ReplicaSet", "web-5d8")
    server.put(
        "/api/v1/namespaces/default/pods",
        pod("web-5d8-1", owner=owner),
        pod("web-5d8-2", owner=owner, deletionTimestamp="2026-01-01T00:00:00Z"),
        pod("web-job-x", owner=("Job", "web-job")),
    )
    found = await workload("Deployment", made("web")).pods(cluster)
    assert [one["metadata"]["name"] for one in found] == ["web-5d8-1"]
    assert server.asked[0][1]["labelSelector"] == "app=web"
