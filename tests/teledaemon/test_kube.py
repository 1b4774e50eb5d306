"""The Kubernetes API: paths, and each of its refusals as one of our errors, of one line."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from aiohttp import web

from teledaemon.kube import MERGE, Cluster, Gone, Invalid, Unauthorized, path
from telewire.errors import BadRequest, Conflict, Forbidden, NotFound, TeleError, Unavailable
from tests.teledaemon.conftest import ApiServer, document


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pods",), "/api/v1/pods"),
        (("pods", "default"), "/api/v1/namespaces/default/pods"),
        (("pods", "default", "web-1"), "/api/v1/namespaces/default/pods/web-1"),
        (("pods", "default", "web-1", "portforward"), "/api/v1/namespaces/default/pods/web-1/portforward"),
        (("nodes", None, "n"), "/api/v1/nodes/n"),
        (("apps/v1/deployments", "default"), "/apis/apps/v1/namespaces/default/deployments"),
        (("networking.k8s.io/v1/servicecidrs",), "/apis/networking.k8s.io/v1/servicecidrs"),
        (("pods", "a/../b", "../x?y#z"), "/api/v1/namespaces/a%2F..%2Fb/pods/..%2Fx%3Fy%23z"),
    ],
)
def test_paths(arguments: tuple[str | None, ...], expected: str) -> None:
    assert path(*arguments) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_a_refusal_is_one_line_in_the_servers_words(
    server: ApiServer, cluster: Cluster, status: int, kind: type[TeleError]
) -> None:
    server.refuse("GET /api/v1/namespaces/default/pods/web", status, 'pods "web" is\n   not what you want')
    with pytest.raises(TeleError) as caught:
        await cluster.get("pods", "default", "web")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    if status != 401:
        assert 'pods "web" is not what you want' in str(caught.value)
    assert cluster.refused.is_set() == (status == 401)


@pytest.mark.parametrize("status", [403, 502])
async def test_a_proxys_page_is_one_line_too(server: ApiServer, cluster: Cluster, status: int) -> None:
    server.answers["GET /api/v1/pods"] = (status, b"<html>\n<h1>No way</h1>\n" + b"x" * 10000)
    with pytest.raises(TeleError, match="<h1>No way</h1>") as caught:
        await cluster.list("pods")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("answer", [b"", b"null", b"[1]"])
async def test_an_answer_that_is_no_object(server: ApiServer, cluster: Cluster, answer: bytes) -> None:
    server.answers["DELETE /api/v1/pods"] = (200, answer)
    assert await cluster.request("DELETE", "/api/v1/pods") == {}
    server.answers["DELETE /api/v1/pods"] = (500, answer)
    with pytest.raises(Unavailable):
        await cluster.request("DELETE", "/api/v1/pods")


async def test_a_server_that_is_not_there() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        cluster = Cluster(document(sock.getsockname()[1]))
        with pytest.raises(Unavailable, match="is closed"):
            await cluster.list("pods")
        await cluster.open()
        with pytest.raises(Unavailable, match=r"cannot be reached.*check your network and kubeconfig"):
            await cluster.list("pods")
        await cluster.close()


async def test_a_server_that_does_not_answer(server: ApiServer, cluster: Cluster) -> None:
    async def never(_: web.Request) -> Any:
        await asyncio.sleep(30)

    server.answers["GET /api/v1/pods"] = never
    with pytest.raises(Unavailable, match="does not answer"):
        await cluster.request("GET", "/api/v1/pods", timeout=0.1)


async def test_a_kubeconfig_that_cannot_be_used() -> None:
    broken = document(1, **{"client-certificate-data": "!!", "client-key-data": "!!"})
    broken["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    with pytest.raises(BadRequest, match="the kubeconfig of context work cannot be used"):
        await Cluster(broken).open()


async def test_long_lists_come_in_chunks(server: ApiServer, cluster: Cluster) -> None:
    async def chunk(request: web.Request) -> Any:
        first = int(request.query.get("continue", "0"))
        more = {"continue": str(first + 1)} if first < 2 else {}
        return 200, {"metadata": more, "items": [{"n": first}]}

    server.answers["GET /api/v1/namespaces/default/pods"] = chunk
    assert await cluster.list("pods", "default", labelSelector="a=b") == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {query["labelSelector"] for _, query, _, _ in server.asked} == {"a=b"}


async def test_deleting_what_is_gone_is_no_error(server: ApiServer, cluster: Cluster) -> None:
    server.refuse("DELETE /api/v1/namespaces/default/pods/web", 404, "gone")
    await cluster.delete("pods", "default", "web")
    with pytest.raises(Forbidden):
        await cluster.delete("pods", "default", "other")


async def test_a_patch_says_of_what_kind_it_is(server: ApiServer, cluster: Cluster) -> None:
    server.answers["PATCH /api/v1/namespaces/default/pods/web"] = (200, {"spec": 1})
    assert await cluster.patch("pods", "default", "web", {"a": None}, MERGE) == {"spec": 1}
    _, _, body, headers = server.asked[0]
    assert (body, headers["Content-Type"]) == ({"a": None}, MERGE)


async def test_new_credentials_count_at_once(server: ApiServer, cluster: Cluster) -> None:
    async def only_second(request: web.Request) -> Any:
        return (200, {"items": []}) if request.headers["Authorization"] == "Bearer second" else (401, {})

    server.answers["GET /api/v1/pods"] = only_second
    with pytest.raises(Unauthorized):
        await cluster.list("pods")
    assert cluster.refused.is_set()
    await cluster.renew({"token": "second"})
    assert not cluster.refused.is_set()
    assert cluster.renewed.is_set()
    assert await cluster.list("pods") == []


async def test_the_user_whom_the_kubeconfig_impersonates(server: ApiServer) -> None:
    user = {"token": "t", "as": "jane", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"Some/Key": ["v"]}}
    cluster = Cluster(document(server.port, **user))
    await cluster.open()
    server.put("/api/v1/pods")
    await cluster.list("pods")
    await cluster.close()
    headers = server.asked[0][3]
    assert (headers["Impersonate-User"], headers["Impersonate-Uid"]) == ("jane", "7")
    assert headers["Impersonate-Extra-some%2Fkey"] == "v"


async def test_a_watch_begins_anew_when_it_is_too_old(server: ApiServer, cluster: Cluster) -> None:
    async def pods(request: web.Request) -> Any:
        if "watch" not in request.query:
            return 200, {"metadata": {"resourceVersion": "9"}, "items": [{"n": len(server.asked)}]}
        response = web.StreamResponse()
        await response.prepare(request)
        line = json.dumps({"type": "ADDED", "object": {"n": "added"}}).encode()
        await response.write(line[:9])  # however the bytes are cut
        await response.write(line[9:] + b"\n")
        error = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
        await response.write(json.dumps(error).encode() + b"\n")
        return response

    server.answers["GET /api/v1/namespaces/default/pods"] = pods
    seen = []
    async with asyncio.timeout(5):
        async for event, item in cluster.watch("pods", "default", "app=x"):
            seen.append((event, item.get("items") or item))
            if len(seen) == 3:
                break
    assert seen == [("SYNC", [{"n": 1}]), ("ADDED", {"n": "added"}), ("SYNC", [{"n": 3}])]
    assert server.asked[1][1]["resourceVersion"] == "9"
    assert {query["labelSelector"] for _, query, _, _ in server.asked} == {"app=x"}


async def test_a_watch_that_may_not_be_ends(server: ApiServer, cluster: Cluster) -> None:
    with pytest.raises(Forbidden):
        await anext(aiter(cluster.watch("secrets", "default", "")))
    assert server.paths() == ["GET /api/v1/namespaces/default/secrets"]
