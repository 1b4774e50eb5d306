"""Whatever dies, ``quit`` or the next ``connect`` leaves nothing behind; the fixture lists and compares both sides."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.e2e.conftest import Command, Kube, eventually


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def plugin_pid(name: str) -> int:
    """Return the main process of a managed plugin, found by its command line under its own root."""
    plugin = docker("plugin", "inspect", "-f", "{{.Id}}", name)
    found = docker_plugin_processes(plugin)
    assert found, f"no process of {name}"
    return found[0]


def docker_plugin_processes(plugin: str) -> list[int]:
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    shims = [int(line.split()[0]) for line in lines if plugin in line and "containerd-shim" in line]
    return [int(line.split()[0]) for line in lines[1:] if int(line.split()[1]) in shims]


def kill_daemon() -> None:
    docker("kill", "--signal", "KILL", "tp-e2e")


def kill_plugin(name: str) -> None:
    subprocess.run(["kill", "-9", str(plugin_pid(name))], check=True)


@pytest.mark.parametrize("then", ["quit", "connect"])
@pytest.mark.parametrize("victim", ["daemon", "teleroute", "telemount", "command"])
def test_killed(victim: str, then: str, nothing_left: None, telepresence: Command, kube: Kube) -> None:
    telepresence("connect", "--docker", "--name", "e2e")
    child = telepresence.start("replace", "frontend-v1", "--docker-run", "--", "frontend-v2")
    try:
        eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
        if victim == "command":
            child.send_signal(signal.SIGKILL)
        elif victim == "daemon":
            kill_daemon()
        else:
            kill_plugin(victim)
        if then == "connect":
            telepresence("connect", "--docker", "--name", "e2e")
            assert "hostname" in telepresence("curl", "-sS", "http://backend/").stdout
        telepresence("quit")
        eventually(lambda: kube.answers("frontend-v1", "v1"))
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait(60)
        child.stdout.close()


@pytest.mark.parametrize("name", ["teleroute", "telemount"])
def test_killed_plugin_comes_back_and_knows_everything(
    name: str, replaced: subprocess.Popen[str], telepresence: Command, kube: Kube
) -> None:
    kill_plugin(name)
    eventually(lambda: bool(docker_plugin_processes(docker("plugin", "inspect", "-f", "{{.Id}}", name))))
    assert kube.answers("frontend-v1", "v2")
    handler = docker(
        "ps", "-q", "--filter", "label=telepresence.io/role=handler", "--filter", "label=telepresence.io/connection=e2e"
    )
    eventually(lambda: docker("exec", handler, "sh", "-c", "cat /etc/frontend/*") != "")
    assert "v2" in telepresence("curl", "-sS", "http://frontend-v1/").stdout


def test_quit_ends_a_running_handler(nothing_left: None, telepresence: Command, kube: Kube) -> None:
    telepresence("connect", "--docker", "--name", "e2e")
    child = telepresence.start("replace", "frontend-v1", "--docker-run", "--", "frontend-v2")
    eventually(lambda: kube.answers("frontend-v1", "v2"), lambda: child.poll() is None or child.stdout.read())
    telepresence("quit")
    child.wait(30)
    child.stdout.close()
    eventually(lambda: kube.answers("frontend-v1", "v1"))


def test_quit_without_a_connection_says_so(nothing_left: None, telepresence: Command) -> None:
    done = telepresence("quit", code=None)
    assert "ot connected" in done.stderr + done.stdout
