"""The daemon as a process in a namespace of its own: control API, exports and networks, as docs/architecture.md has them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rcode
import pytest

from telewire import __version__, names
from tests.teledaemon.daemon_world import HOST, NEIGHBOUR, TOKEN, World
from tests.teledaemon.netns import ROOT, socket_in

LINK, ENDPOINT = "te0123456789abc", "f" * 64
NETWORK = {"subnets": [{"pool": "172.30.0.0/24", "gateway": "172.30.0.1/24"}], "mtu": 1400}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


pytestmark = pytest.mark.root


def test_an_idle_daemon_tells_its_state(world: World) -> None:
    status = world.call("GET", "/v1/status")
    assert status.status == 200
    assert (status.body["version"], status.body["state"]) == (__version__, "idle")
    assert status.body.keys() >= {
        *("version", "name", "state", "since", "error", "context", "server", "namespace", "client_id", "gateway"),
        *("subnets", "dns", "networks", "tunnels", "engagements"),
    }
    assert status.body["subnets"] == {"service": [], "pod": []}
    assert (status.body["networks"], status.body["tunnels"], status.body["engagements"]) == ([], [], [])


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "0", TOKEN.upper()])
def test_without_the_token_nothing_is_told(world: World, token: str | None) -> None:
    for method, path in (("GET", "/v1/status"), ("POST", "/v1/quit"), ("GET", "/v1/nothing")):
        answer = world.call(method, path, token=token)
        assert (answer.status, answer.body["code"]) == (401, "unauthorized")
        assert answer.body.keys() == {"error", "code"}


def test_only_the_host_and_the_daemon_itself_may_speak(world: World) -> None:
    assert world.call("GET", "/v1/status").status == 200
    assert world.call("GET", "/v1/status", source="127.0.0.1", where=world.daemon, target="127.0.0.1").status == 200
    assert world.is_stranger(source=NEIGHBOUR)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b'"x"', b"nonsense", b"1"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/connect"), ("PUT", "/v1/networks/n")])
def test_a_malformed_body_is_a_bad_request(world: World, method: str, path: str, body: bytes) -> None:
    assert world.refused(method, path, body) == "bad-request"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("GET", "/v2/status"),
        ("GET", "/v1/engagements/nothing"),
        ("GET", "/v1/../etc"),
    ],
)
def test_what_is_not_there_is_not_found(world: World, method: str, path: str) -> None:
    assert world.refused(method, path) == "not-found"


def test_a_wrong_method_is_refused_in_json(world: World) -> None:
    assert world.refused("DELETE", "/v1/status")
    assert world.refused("GET", "/v1/quit")


def test_an_idle_daemon_is_not_connected(world: World) -> None:
    assert world.refused("GET", "/v1/workloads") == "not-connected"
    wanted = {"kind": "replace", "workload": "web", "name": "web", "ports": [], "to_pod": []}
    assert world.refused("POST", "/v1/engagements", wanted) == "not-connected"
    assert world.call("GET", "/v1/engagements") == (200, {"engagements": []})
    assert world.call("POST", "/v1/quit", {}) == (200, {})
    assert world.call("GET", "/v1/credentials?wait=0") == (200, {"wanted": False})


def test_a_connection_that_fails_is_told_and_may_be_tried_again(world: World) -> None:
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "work", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "work",
    }
    wanted = {
        "name": "work-default",
        "client_id": "0" * 16,
        "owner": {"user": "jane", "host": "here"},
        "namespace": "default",
        "kubeconfig": kubeconfig,
        "agent_image": "agent:1",
        "agent_pull_policy": "IfNotPresent",
        "recover_only": False,
    }
    for key in ("name", "client_id", "namespace", "agent_image", "kubeconfig"):
        assert world.refused("POST", "/v1/connect", {k: v for k, v in wanted.items() if k != key}) == "bad-request"
    assert world.refused("POST", "/v1/connect", {**wanted, "agent_pull_policy": "Sometimes"}) == "bad-request"
    for _ in range(2):
        assert world.refused("POST", "/v1/connect", wanted) == "unavailable"
        status = world.call("GET", "/v1/status").body
        assert status["state"] == "failed"
        assert "127.0.0.1:1" in status["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"subnets": []},
        {"subnets": "172.30.0.0/24"},
        {"subnets": ["172.30.0.0/24"]},
        {"subnets": [{"pool": "172.30.0.0/24"}]},
        {"subnets": [{"pool": "172.30.0.0/24", "gateway": "172.31.0.1/24"}]},
        {"subnets": [{"pool": "nonsense", "gateway": "172.30.0.1/24"}]},
        {**NETWORK, "mtu": 1},
        {**NETWORK, "mtu": "1400"},
    ],
)
def test_a_network_that_cannot_be_is_a_bad_request(world: World, body: object) -> None:
    assert world.refused("PUT", "/v1/networks/n", body) == "bad-request"
    assert world.call("GET", "/v1/status").body["networks"] == []


def test_a_network_comes_serves_and_goes(world: World) -> None:
    for _ in range(2):  # it may be put again
        answer = world.call("PUT", "/v1/networks/net", NETWORK)
        assert answer == (200, {"netns": os.stat(f"/proc/{world.daemon.pid}/ns/net").st_ino, "routes": []})
    assert "172.30.0.1/24" in world.daemon.run("ip", "-o", "address").stdout

    put = {"interface": LINK, "addresses": ["172.30.0.2/24"]}
    where = f"/v1/networks/net/endpoints/{ENDPOINT}"
    assert world.refused("PUT", where, put) == "not-found"  # Teleroute has not made the link yet
    assert world.refused("PUT", where, {**put, "interface": "eth0"}) == "bad-request"
    assert world.refused("PUT", where, {**put, "addresses": ["x"]}) == "bad-request"
    assert world.refused("PUT", f"/v1/networks/other/endpoints/{ENDPOINT}", put) == "not-found"
    world.daemon.link(LINK, world.handler, "eth0")
    world.daemon.run("ip", "link", "set", LINK, "down")
    world.handler.address("eth0", "172.30.0.2/24")
    assert world.call("PUT", where, put) == (200, {"routes": []})
    assert "state UP" in world.daemon.run("ip", "-o", "link", "show", LINK).stdout

    query = dns.message.make_query("backend.", "A")
    with socket_in(world.handler.pid, kind=socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(query.to_wire(), ("172.30.0.1", 53))
        assert dns.message.from_wire(sock.recv(512)).rcode() == dns.rcode.NXDOMAIN
    with world.socket(53, "172.30.0.2", world.handler, "172.30.0.1") as sock:
        dns.query.send_tcp(sock, query)
        assert dns.query.receive_tcp(sock)[0].rcode() == dns.rcode.NXDOMAIN
    assert world.is_stranger(source="172.30.0.2", where=world.handler, target="172.30.0.1")

    assert world.call("DELETE", where) == (200, {})
    assert world.daemon.run("ip", "link", "show", LINK, check=False).returncode != 0
    assert world.call("DELETE", where) == (200, {})
    for _ in range(2):
        assert world.call("DELETE", "/v1/networks/net") == (200, {})
    assert "172.30.0.1" not in world.daemon.run("ip", "-o", "address").stdout
    assert world.call("GET", "/v1/status").body["networks"] == []


def test_an_endpoint_whose_link_vanishes_is_forgotten(world: World) -> None:
    world.call("PUT", "/v1/networks/net", NETWORK)
    world.daemon.link(LINK, world.handler, "eth1")
    put = {"interface": LINK, "addresses": ["172.30.0.2/24"]}
    assert world.call("PUT", f"/v1/networks/net/endpoints/{ENDPOINT}", put).status == 200
    assert ENDPOINT in json.dumps(world.call("GET", "/v1/status").body["networks"])
    world.handler.run("ip", "link", "delete", "eth1")
    deadline = time.monotonic() + 3
    while ENDPOINT in json.dumps(world.call("GET", "/v1/status").body["networks"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert world.call("DELETE", "/v1/networks/net") == (200, {})


@pytest.mark.parametrize(
    ("line", "source", "said"),
    [
        (f"SFTP/1 {TOKEN} nothing", HOST, "nothing"),
        ("SFTP/1 wrong nothing", HOST, "token"),
        ("GET / HTTP/1.1", HOST, ""),
        (f"SFTP/1 {TOKEN}", HOST, ""),
        ("\xff", HOST, ""),
        (f"SFTP/1 {TOKEN} nothing", NEIGHBOUR, NEIGHBOUR),
    ],
)
def test_an_export_is_refused_in_one_line(world: World, line: str, source: str, said: str) -> None:
    with world.socket(names.EXPORT_PORT, source) as sock:
        sock.sendall(line.encode("latin-1") + b"\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(4096):
                answer += data
    assert answer.startswith(b"ERR ")
    assert answer.count(b"\n") == 1
    assert said in answer.decode()


def test_a_daemon_without_a_token_does_not_start() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TELEPRESENCE_TOKEN"}
    for more in ({}, {"TELEPRESENCE_TOKEN": "short"}):
        done = subprocess.run(
            [sys.executable, "-m", "teledaemon"],
            env={**environment, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "set TELEPRESENCE_TOKEN" in done.stderr


def test_the_daemon_ends_when_it_is_told_to(world: World) -> None:
    """The last one here."""
    world.process.terminate()
    assert world.process.wait(10) == 0
