"""Containers run as ``docker run`` runs them, on a network more; on the real engine, a bridge for the network."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from orchestrator import dockerflags, runner
from orchestrator.engine import Engine
from orchestrator.progress import Reporter
from telewire.errors import BadRequest, Conflict, NotFound, TeleError
from tests.orchestrator.conftest import docker

pytestmark = pytest.mark.engine
IMAGE = "debian:trixie-slim"
STATUS: Any = {"dns": {"search": ["ns.svc.cluster.local", "svc.cluster.local"], "nameservers": []}}
LABELS = {"telepresence.io/role": "tool"}

SCRIPT = """
import signal, sys
from orchestrator import dockerflags, runner
from orchestrator.engine import Engine
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may have been started by nohup
name, *words = sys.argv[1:]
engine = Engine()
run = dockerflags.parse(words)
status = {"dns": {"search": ["ns.svc.cluster.local"], "nameservers": []}}
created = runner.create(engine, name, status, run, {"telepresence.io/connection": name})
sys.exit(runner.start_attached(engine, created, ending=lambda: engine.stop(created.id, 1)))
"""


@pytest.fixture
def network(clean: str) -> str:
    """A network with our labels; its name."""
    labels = ["--label", f"telepresence.io/connection={clean}", "--label", "telepresence.io/role=network"]
    docker("network", "create", *labels, clean)
    return clean


def run(network: str, *words: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, network, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **extra,
    )


def left(network: str) -> str:
    return docker("ps", "-aq", "--filter", f"label=telepresence.io/connection={network}")


def test_output_exit_code_and_removal(network: str) -> None:
    done = run(network, "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, "out\n", "err\n")
    assert left(network) == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--rm", IMAGE, "sh", "-c", "exit 1"], 1),
        (["--rm", IMAGE, "/no/such/program"], 127),
        (["--rm", IMAGE, "/etc"], 126),
        (["--rm", "-p", "256.1.1.1:80:80", IMAGE, "true"], 125),
    ],
)
def test_exit_codes_are_those_of_docker_run(network: str, engine: Engine, words: list[str], code: int) -> None:
    theirs = subprocess.run(["docker", "run", *words], capture_output=True, check=False, timeout=60)
    assert theirs.returncode == code, theirs.stderr
    if code == 125:
        with pytest.raises(TeleError, match="refused to create"):
            runner.create(engine, network, STATUS, dockerflags.parse(words), LABELS)
    else:
        assert run(network, *words).returncode == code
    assert left(network) == ""


def test_input_is_passed_only_with_interactive(network: str) -> None:
    assert run(network, "--rm", "-i", IMAGE, "cat", input="typed").stdout == "typed"
    assert run(network, "--rm", IMAGE, "cat", input="typed").stdout == ""


def test_name_server_search_and_network(network: str) -> None:
    done = run(network, "--rm", IMAGE, "sh", "-c", "cat /etc/resolv.conf; ls /sys/class/net")
    assert "search ns.svc.cluster.local" in done.stdout
    assert "ndots:5" not in done.stdout
    assert done.stdout.count("eth") == 2
    assert "search mine" in run(network, "--rm", "--dns-search", "mine", IMAGE, "cat", "/etc/resolv.conf").stdout


def test_only_our_network_if_the_user_names_it(network: str) -> None:
    assert run(network, "--rm", "--network", network, IMAGE, "ls", "/sys/class/net").stdout.count("eth") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_container(network: str, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    command = [sys.executable, "-c", SCRIPT, network, "--rm", IMAGE, "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.stdout.readline() == b"got\n"
        assert child.wait(30) == 9
    assert left(network) == ""


def test_a_handler_that_ignores_the_signal_is_ended(network: str) -> None:
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        network,
        "--rm",
        IMAGE,
        "sh",
        "-c",
        "trap '' TERM INT; echo ready; sleep 60",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 137


def test_a_terminal(network: str) -> None:
    pid, screen = pty.fork()
    if pid == 0:
        command = [sys.executable, "-c", SCRIPT, network, "-it", "--rm", IMAGE, "bash"]
        os.execv(sys.executable, command)
    text, sent, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            text += os.read(screen, 4096)
        except OSError:
            break
        if not sent and b"# " in text:
            os.write(screen, b"tty; stty size; exit 3\n")
            sent = True
    _, status = os.waitpid(pid, 0)
    os.close(screen)
    assert os.waitstatus_to_exitcode(status) == 3
    assert b"/dev/pts/0" in text


def test_published_ports_work(network: str, engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["-d", "--name", network, "-p", f"127.0.0.1:{port}:80", IMAGE, "sh", "-c"]
    words.append("python3 -m http.server 80 2>/dev/null || sleep 60")
    parsed = dockerflags.parse(words)
    created = runner.create(engine, network, STATUS, parsed, {"telepresence.io/connection": network})
    runner.start_detached(engine, created)
    assert engine.inspect(network)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == str(port)
    with pytest.raises(Conflict, match=f"port {port} is in use.*container {network}"):
        runner.check(engine, dockerflags.parse(["-p", f"{port}:1", IMAGE]), Reporter("quiet"), network)


def test_what_can_be_checked_is_checked_beforehand(network: str, engine: Engine) -> None:
    def check(*words: str) -> None:
        runner.check(engine, dockerflags.parse(words), Reporter("quiet"), network)

    check(IMAGE)
    with pytest.raises(BadRequest, match="not a TTY"):
        check("-it", IMAGE)
    with pytest.raises(BadRequest, match="--network host leaves no place"):
        check("--network", "host", IMAGE)
    with pytest.raises(BadRequest, match="-a/--attach"):
        check("-a", "stdout", IMAGE)
    with pytest.raises(NotFound, match="no image no-such-image-anywhere:1 here, and it cannot be pulled"):
        check("no-such-image-anywhere:1")
    with pytest.raises(NotFound, match="--pull never"):
        check("--pull=never", "no-such-image-anywhere:1")
    with pytest.raises(NotFound, match="--env-file /nowhere/env cannot be read"):
        check("--env-file", "/nowhere/env", IMAGE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} is in use on 127.0.0.1"):
            check("-p", f"127.0.0.1:{port}:80", IMAGE)
    docker("create", "--name", network, IMAGE, "true")
    with pytest.raises(BadRequest, match=f"there is a container {network} already"):
        check("--name", network, IMAGE)


def test_nothing_is_left_when_the_network_is_gone(network: str, engine: Engine) -> None:
    parsed = dockerflags.parse(["--network", "no-such-network-anywhere", IMAGE, "true"])
    created = runner.create(engine, network, STATUS, parsed, {"telepresence.io/connection": network})
    with pytest.raises(TeleError):
        runner.start_detached(engine, created)
    engine.remove_container(created.id)
    assert left(network) == ""
