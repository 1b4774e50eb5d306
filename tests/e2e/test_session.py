"""The session of the README, and what "as if it ran in the cluster" means, on real parts."""

from __future__ import annotations

import base64
import json
import subprocess
import time

import yaml

from tests.e2e.conftest import TELEPRESENCE, Command, Kube, eventually, stop


def test_connect_says_where_and_status_tells_the_truth(connection: str, telepresence: Command, kube: Kube) -> None:
    status = json.loads(telepresence("status", "--output", "json").stdout)
    assert status["daemon"]["name"] == connection
    assert status["daemon"]["status"] == "Connected"
    assert status["daemon"]["kubernetes_context"] == kube.context
    assert status["daemon"]["namespace"] == "default"
    assert yaml.safe_load(telepresence("status", "--output", "yaml").stdout)["daemon"]["name"] == connection
    again = telepresence("connect", "--docker", "--name", connection)
    assert "already" in (again.stderr + again.stdout).lower()


def test_list_names_every_workload(connection: str, telepresence: Command) -> None:
    listed = {entry["name"]: entry for entry in json.loads(telepresence("list", "--output", "json").stdout)}
    assert {"frontend-v1", "backend", "quotes", "clock"} <= set(listed)
    assert "frontend-v1" in telepresence("list").stdout


def test_curl_reaches_services_by_name(connection: str, telepresence: Command) -> None:
    for name in ("frontend-v1", "frontend-v1.default", "frontend-v1.default.svc.cluster.local"):
        assert "v1" in telepresence("curl", "-sS", f"http://{name}/").stdout


def test_curl_gives_curls_exit_code_and_refusals_and_unknown_names_are_quick(
    connection: str, telepresence: Command
) -> None:
    started = time.monotonic()
    assert telepresence("curl", "-sS", "http://frontend-v1:81/", code=7).stdout == ""
    assert telepresence("curl", "-sS", "http://no-such-name/", code=6).stdout == ""
    assert telepresence("curl", "-sS", "http://no-such.no-namespace.svc.cluster.local/", code=6).stdout == ""
    assert time.monotonic() - started < 20, "refused ports and unknown names must be told at once"


def test_docker_run_reaches_tcp_udp_and_pods(connection: str, telepresence: Command, kube: Kube) -> None:
    pod = kube.pods("backend")[0].status.pod_ip
    script = (
        "import socket,urllib.request as u\n"
        f"print('pod', u.urlopen('http://{pod}:8080/', timeout=5).status)\n"
        "s=socket.create_connection(('quotes-0.quotes',1717),5); print('quote', s.recv(200))\n"
        "d=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); d.settimeout(5)\n"
        "d.sendto(b'now',('clock',1123)); print('clock', d.recv(200))\n"
        "t=socket.socket(); t.settimeout(5)\n"
        "print('refused', t.connect_ex(('frontend-v1',81)))\n"
        "try: socket.getaddrinfo('nope',1)\n"
        "except socket.gaierror as e: print('unknown', e.errno)\n"
    )
    done = telepresence("docker-run", "--rm", "--entrypoint", "python3", "frontend-v2", "-c", script)
    assert "pod 200" in done.stdout
    assert "quote b'" in done.stdout
    assert "clock b'" in done.stdout
    assert "refused 111" in done.stdout
    assert "unknown -2" in done.stdout


def test_docker_run_keeps_exit_codes_ports_and_the_internet_side(connection: str, telepresence: Command) -> None:
    assert telepresence("docker-run", "--rm", "debian:trixie-slim", "sh", "-c", "exit 42", code=42)
    done = telepresence("docker-run", "-d", "--name", "e2e-published", "-p", "127.0.0.1:18099:8080", "frontend-v2")
    try:
        assert done.stdout.strip()
        eventually(
            lambda: b"v2" in subprocess.run(["curl", "-s", "http://127.0.0.1:18099/"], capture_output=True).stdout
        )
    finally:
        subprocess.run(["docker", "rm", "-f", "e2e-published"], capture_output=True)


def test_plain_docker_uses_the_network(connection: str, telepresence: Command) -> None:
    inspected = json.loads(
        subprocess.run(["docker", "network", "inspect", connection], capture_output=True, check=True).stdout
    )
    gateway = inspected[0]["IPAM"]["Config"][0]["Gateway"]
    command = [
        "docker",
        "run",
        "--rm",
        "--network",
        connection,
        "--dns",
        gateway,
        "--entrypoint",
        "python3",
        "frontend-v2",
        "-c",
    ]
    script = "import urllib.request as u; print(u.urlopen('http://frontend-v1/', timeout=5).read().decode())"
    assert "v1" in subprocess.run([*command, script], capture_output=True, text=True, check=True, timeout=60).stdout


def renew(kube: Kube) -> None:
    """Have a new pod: the kubelet holds back a container that was started several times of late, and then its pod is made anew."""
    old = kube.pods("frontend-v1")[0].metadata
    kube.core.delete_namespaced_pod(old.name, "default")
    eventually(lambda: [pod.metadata.uid for pod in kube.pods("frontend-v1")] not in ([], [old.uid]))
    eventually(lambda: kube.answers("frontend-v1", "v1"))


def test_replace_answers_in_cluster_traffic_with_environment_and_volumes(
    connection: str, telepresence: Command, kube: Kube
) -> None:
    renew(kube)
    environment = json.loads(kube.get("http://frontend-v1/env"))
    original = kube.pods("frontend-v1")[0]
    kube.run(original.metadata.name, "sh", "-c", "echo from-the-pod > /data/from-pod")
    child = telepresence.start("replace", "frontend-v1", "--docker-run", "--", "-e", "ADDED=here", "frontend-v2")
    try:
        eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
        here = json.loads(kube.get("http://frontend-v1/env"))
        for name, value in environment.items():
            if name not in ("PATH", "HOME"):  # set by the runtime from the image, on either side
                assert here.get(name) == value, name
        assert b"\n" in base64.b64decode(here["FRONTEND_SECRET"])
        assert base64.b64decode(here["ADDED"]) == b"here"

        handler = subprocess.run(
            ["docker", "ps", "-q", "--filter", "label=telepresence.io/role=handler"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

        def inside(command: str) -> str:
            return subprocess.run(
                ["docker", "exec", handler, "sh", "-c", command], capture_output=True, text=True, check=True
            ).stdout

        assert inside("cat /data/from-pod") == "from-the-pod\n"
        assert inside("cat /etc/frontend/*") != ""
        assert inside("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace") == "default"
        inside("echo from-here > /data/from-here")
        replaced = kube.pods("frontend-v1")[0]
        assert replaced.metadata.uid == original.metadata.uid
        assert kube.run(replaced.metadata.name, "cat", "/data/from-here") == "from-here\n"

        status = json.loads(telepresence("status", "--output", "json").stdout)
        assert "frontend-v1" in json.dumps(status)
    finally:
        stop(child)
    eventually(lambda: kube.answers("frontend-v1", "v1"))
    # A container that is started anew also has the variables of Services that came after its first start.
    assert json.loads(kube.get("http://frontend-v1/env")).items() >= environment.items()
    assert kube.run(kube.pods("frontend-v1")[0].metadata.name, "cat", "/data/from-here") == "from-here\n"
    kube.run(kube.pods("frontend-v1")[0].metadata.name, "rm", "/data/from-here", "/data/from-pod")


def test_handlers_exit_code_is_ours(connection: str, telepresence: Command, kube: Kube) -> None:
    done = telepresence(
        "replace", "frontend-v1", "--docker-run", "--", "--entrypoint", "sh", "frontend-v2", "-c", "exit 5", code=5
    )
    assert "frontend-v1" in done.stderr
    eventually(lambda: kube.answers("frontend-v1", "v1"))


def test_leave_from_another_shell_ends_it(replaced: subprocess.Popen[str], telepresence: Command, kube: Kube) -> None:
    telepresence("leave", "frontend-v1")
    assert replaced.wait(30) is not None
    eventually(lambda: kube.answers("frontend-v1", "v1"))


def test_probes_are_answered_while_replaced(replaced: subprocess.Popen[str], kube: Kube) -> None:
    pod = kube.pods("frontend-v1")[0]
    restarts = pod.status.container_statuses[0].restart_count
    time.sleep(8)  # longer than the liveness probe takes to give up
    pod = kube.pods("frontend-v1")[0]
    assert pod.status.container_statuses[0].ready
    assert pod.status.container_statuses[0].restart_count == restarts


def test_two_connections_side_by_side_need_use(connection: str, telepresence: Command) -> None:
    telepresence("connect", "--docker", "--name", "e2e-two", "--namespace", "kube-system")
    try:
        bare = [TELEPRESENCE, "curl", "http://frontend-v1/"]
        refused = subprocess.run(bare, env=telepresence.environment, capture_output=True, text=True)
        assert refused.returncode == 125
        line = telepresence.fails("--use", "e2e-?", "curl", "http://frontend-v1/")
        for said in (line, refused.stderr):
            assert "--use" in said
        assert "e2e-two" in line
        assert "v1" in telepresence("--use", "^e2e$", "curl", "-sS", "http://frontend-v1/").stdout
        assert telepresence("--use", "e2e-two", "curl", "-sS", "http://frontend-v1/", code=6)
    finally:
        telepresence("--use", "e2e-two", "quit")


def test_version_tells_both_sides(connection: str, telepresence: Command) -> None:
    from telewire import __version__

    assert telepresence("version").stdout.count(__version__) >= 2
