"""The plugin's process outside of an engine: its socket, its state, and being killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from telemount import mounts
from tests.telemount.conftest import Agent, until

pytestmark = pytest.mark.root


class Plugin:
    """``python -m telemount``, called as Docker calls it."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "telemount.sock")
        self.root = folder / "propagated"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "telemount", "--socket", self.socket, "--root", str(self.root)]
        )

    def call(self, name: str, **body: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        try:
            connection.request("POST", f"/VolumeDriver.{name}", json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.socket) == 0

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    made = Plugin(tmp_path)
    until(made.listens)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    for path in mounts.mounted():
        if path.startswith(str(tmp_path)):
            mounts.detach(path)


def test_it_listens_before_docker_dials(tmp_path: Path) -> None:
    times: list[float] = []
    while not times or (min(times) > 0.5 and len(times) < 5):  # a busy machine may delay one, not each
        began = time.monotonic()
        made = Plugin(tmp_path)
        try:
            until(made.listens, 5)
            times.append(time.monotonic() - began)
            assert made.call("Capabilities") == {"Capabilities": {"Scope": "local"}}
        finally:
            assert made.end(signal.SIGTERM) == 0
        assert not os.path.exists(made.socket)
    assert min(times) < 0.5


def test_killed_it_knows_everything(root: Path, agent: Agent, plugin: Plugin) -> None:
    (root / "f").write_text("content")
    options = {"address": f"127.0.0.1:{agent.port}"}
    assert plugin.call("Create", Name="v", Opts=options) == {}
    where = plugin.call("Mount", Name="v", ID="a")["Mountpoint"]
    assert Path(where, "f").read_text() == "content"
    plugin.end(signal.SIGKILL)
    plugin.start()
    until(lambda: plugin.listens() and plugin.call("List")["Volumes"][0]["Status"]["mounted"])
    assert Path(where, "f").read_text() == "content"
    assert plugin.call("Get", Name="v")["Volume"]["Mountpoint"] == where
    assert plugin.call("Unmount", Name="v", ID="a") == {}
    assert where not in mounts.mounted()
    assert plugin.call("Remove", Name="v") == {}
    assert plugin.call("List") == {"Volumes": []}
    assert os.listdir(plugin.root / "volumes") == []


def test_ended_it_leaves_nothing_that_is_not_used(root: Path, agent: Agent, plugin: Plugin) -> None:
    plugin.call("Create", Name="v", Opts={"address": f"127.0.0.1:{agent.port}"})
    where = plugin.call("Mount", Name="v", ID="a")["Mountpoint"]
    plugin.call("Unmount", Name="v", ID="a")
    plugin.call("Mount", Name="v", ID="b")
    plugin.call("Unmount", Name="v", ID="b")
    assert plugin.end(signal.SIGTERM) == 0
    assert where not in mounts.mounted()


def test_errors_are_told(plugin: Plugin) -> None:
    assert "there is no option 'adress'" in plugin.call("Create", Name="v", Opts={"adress": "x"})["Err"]
    assert "there is no volume v" in plugin.call("Mount", Name="v", ID="a")["Err"]
    assert plugin.call("Remove", Name="v") == {}


def test_state_and_token_are_for_root_only(agent: Agent, plugin: Plugin) -> None:
    plugin.call("Create", Name="v", Opts={"address": f"127.0.0.1:{agent.port}", "token": "s3cret", "export": "e"})
    state = plugin.root / "state"
    assert (state / "volumes.json").exists()
    assert state.stat().st_mode & 0o077 == 0
    assert "s3cret" not in json.dumps([plugin.call("List"), plugin.call("Get", Name="v")])
    began = time.monotonic()
    assert "Err" in plugin.call("Mount", Name="v", ID="a")
    assert time.monotonic() - began < 8
