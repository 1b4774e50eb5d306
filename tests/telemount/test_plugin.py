"""The plugin in a real engine, under a name of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemount import mounts
from tests.telemount.conftest import Agent, free_port, until

pytestmark = [pytest.mark.root, pytest.mark.engine]

REPOSITORY = Path(__file__).parents[2]
PLUGIN = "telemount-test:latest"
ROOTFS = "telepresence/telemount-rootfs"
"""What tools/build-plugin.sh makes the plugin of."""
IMAGE = "debian:trixie-slim"


def docker(*arguments: str, check: bool = True) -> str:
    """Run docker; return what it says, errors too."""
    found = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or found.returncode == 0, found.stderr
    return (found.stdout + found.stderr).strip()


def remove_plugin() -> None:
    subprocess.run(["docker", "plugin", "rm", "-f", PLUGIN], capture_output=True, check=False)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The plugin, built, installed and enabled."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "rootfs").mkdir()
    remove_plugin()
    docker("build", "-q", "-t", ROOTFS, "-f", str(REPOSITORY / "Dockerfile.telemount"), str(REPOSITORY))
    container = docker("create", ROOTFS)
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            subprocess.run(["tar", "-x", "-C", str(folder / "rootfs")], stdin=export.stdout, check=True)
    finally:
        docker("rm", container)
    # An engine takes no two plugins with the same files.
    (folder / "rootfs" / "test").write_text(uuid.uuid4().hex)
    shutil.copy(REPOSITORY / "plugin-configs" / "telemount.json", folder / "config.json")
    try:
        docker("plugin", "create", PLUGIN, str(folder))
        shutil.rmtree(folder)
        docker("plugin", "enable", PLUGIN)
        yield PLUGIN
    finally:
        remove_plugin()
        assert PLUGIN not in docker("plugin", "ls", "--format", "{{.Name}}")


@pytest.fixture
def volume(plugin: str, agent: Agent) -> Iterator[Callable[..., str]]:
    """Creates volumes with ``root`` in them; afterwards nothing may be left."""
    made: list[str] = []

    def create(*options: str, port: int = 0) -> str:
        name = f"tmtest-{uuid.uuid4().hex[:8]}"
        address = f"address=127.0.0.1:{port or agent.port}"
        given = [part for option in (address, *options) for part in ("-o", option)]
        docker("volume", "create", "-d", plugin, *given, name)
        made.append(name)
        return name

    yield create
    for name in made:
        users = docker("ps", "-aq", "--filter", f"volume={name}").split()
        if users:
            docker("rm", "-f", *users)
        docker("volume", "rm", name)
        assert not [path for path in mounts.mounted() if path.endswith("/" + name)]
        until(lambda: not processes(), 5)


def processes() -> dict[int, str]:
    """Return the plugin's FUSE processes in containers of the engine: number and file system."""
    identifier = docker("plugin", "inspect", "-f", "{{.Id}}", PLUGIN)
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            group = (entry / "cgroup").read_text()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if identifier in group and b"telemount.child" in command:
            found[int(entry.name)] = group
    return found


def plugin_process() -> int:
    """Return the number of the plugin's first process."""
    identifier = docker("plugin", "inspect", "-f", "{{.Id}}", PLUGIN)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if identifier in (entry / "cgroup").read_text() and b"telemount\0" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("the plugin does not run")


def run(volume: str, script: str, *options: str, check: bool = True, mode: str = "nocopy") -> str:
    """Run a shell script in a container with the volume at ``/mnt``."""
    return docker("run", "--rm", "-v", f"{volume}:/mnt:{mode}", *options, IMAGE, "sh", "-c", script, check=check)


def test_reading_and_writing(root: Path, volume: Callable[..., str]) -> None:
    data = os.urandom(3_000_000)
    (root / "data").write_bytes(data)
    name = volume()
    assert run(name, "cp /mnt/data /mnt/copy && echo written > /mnt/new && cat /mnt/new") == "written"
    assert (root / "copy").read_bytes() == data
    assert (root / "new").read_text() == "written\n"
    (root / "data").chmod(0o600)
    assert run(name, "head -c 3 /mnt/new; stat -c %u /mnt/data; wc -c < /mnt/data", "--user", "1000") == "wri0\n3000000"
    described = json.loads(docker("volume", "inspect", name))[0]
    assert described["Scope"] == "local"
    assert described["Status"]["users"] == 0
    assert name in docker("volume", "ls", "-q").split()


def test_part_of_it_read_only(root: Path, volume: Callable[..., str]) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "f").write_text("content")
    name = volume("dir=/sub", "ro", "uid=1000")
    assert run(name, "cat /mnt/f; stat -c ' %u' /mnt/f") == "content 1000"
    assert "Read-only file system" in run(name, "echo x > /mnt/f", check=False)
    assert (root / "sub" / "f").read_text() == "content"


def test_what_is_wrong_is_told(plugin: str, volume: Callable[..., str]) -> None:
    wrong = docker("volume", "create", "-d", plugin, "-o", "adress=x", "tmtest-wrong", check=False)
    assert "there is no option 'adress' (did you mean address?)" in wrong
    port = free_port()
    name = volume(port=port)
    began = time.monotonic()
    assert f"cannot reach the SFTP server at 127.0.0.1:{port}: Connection refused" in run(name, "true", check=False)
    assert time.monotonic() - began < 5


def test_the_plugin_is_killed(root: Path, volume: Callable[..., str]) -> None:
    (root / "f").write_text("content")
    name = volume()
    container = docker("run", "-d", "-v", f"{name}:/mnt:nocopy", IMAGE, "sleep", "600")
    before = plugin_process()
    os.kill(before, 9)
    until(lambda: docker("exec", container, "cat", "/mnt/f", check=False) == "content", 20)
    assert plugin_process() != before
    assert run(name, "cat /mnt/f") == "content"
    docker("exec", container, "sh", "-c", "echo x > /mnt/g")
    assert (root / "g").read_text() == "x\n"
    docker("rm", "-f", container)


def test_a_file_system_is_killed(root: Path, volume: Callable[..., str]) -> None:
    (root / "f").write_text("content")
    name = volume()
    container = docker("run", "-d", "-v", f"{name}:/mnt:nocopy", IMAGE, "sleep", "600")
    for _ in range(2):
        (process,) = processes()
        os.kill(process, 9)
        until(lambda: docker("exec", container, "cat", "/mnt/f", check=False) == "content", 10)
    docker("cp", f"{container}:/mnt/f", str(root / "copied"))
    assert (root / "copied").read_text() == "content"
    assert docker("exec", container, "cat", "/mnt/f") == "content"
    docker("rm", "-f", container)


def test_disabled_and_enabled(root: Path, plugin: str, volume: Callable[..., str]) -> None:
    (root / "f").write_text("content")
    name = volume()
    assert run(name, "cat /mnt/f") == "content"
    docker("plugin", "disable", "-f", plugin)
    docker("plugin", "enable", plugin)
    assert run(name, "cat /mnt/f") == "content"


def test_two_volumes_and_two_containers(root: Path, volume: Callable[..., str]) -> None:
    for part in ("a", "b"):
        (root / part).mkdir()
        (root / part / "f").write_text(part)
    first, second = volume("dir=/a"), volume("dir=/b")
    container = docker(
        "run",
        "-d",
        "-v",
        f"{first}:/a:nocopy",
        "-v",
        f"{second}:/b:nocopy",
        IMAGE,
        "sh",
        "-c",
        "cat /a/f /b/f; echo; sleep 600",
    )
    until(lambda: docker("logs", container) == "ab", 5)
    assert run(first, "cat /mnt/f") == "a"
    assert len(processes()) == 2
    assert docker("exec", container, "cat", "/a/f", "/b/f") == "ab"
    docker("rm", "-f", container)
    until(lambda: not processes(), 5)
