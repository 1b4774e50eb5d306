"""Engines of three generations, the plugins installed in each from a registry; each test leaves the engine as it found it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telewire import names
from tests.engines.inner import DEBIAN, Attached, Inner, engines, until
from tests.engines.registry import PLUGINS, Registry, docker
from tests.telemount.conftest import free_port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as needing an engine and root, with time for real engines."""
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.timeout(600))


def remove_abandoned() -> None:
    """Remove the engines of test runs that were killed; their names end with the number of the process."""
    listed = docker(
        "volume", "ls", "--filter", f"label={engines.LABEL}", "--format", f'{{{{.Label "{engines.LABEL}"}}}}'
    )
    for name in listed.split():
        version, _, process = name.removeprefix("test-").rpartition("-")
        if name.startswith("test-") and version in engines.RELEASES and not Path("/proc", process).exists():
            Inner(version, name).down()


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The registry, filled."""
    remove_abandoned()
    made = Registry(engines.FOLDER / "registry")
    made.fill()
    return made


@pytest.fixture(scope="session", params=list(engines.RELEASES))
def engine(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Inner]:
    """An engine with the images and both plugins, as ``docker plugin install`` brings them."""
    inner = Inner(request.param, f"test-{request.param}-{os.getpid()}")
    try:
        inner.up()
        with ThreadPoolExecutor(1) as beside, registry.serving(inner.pid):
            loading = beside.submit(inner.load, DEBIAN, names.image("daemon"), names.image("agent"))
            for plugin in PLUGINS:
                inner.docker(
                    "plugin", "install", "--grant-all-permissions", "--alias", plugin, registry.reference(plugin)
                )
            loading.result()
        yield inner
    finally:
        inner.down()
    left = [docker("ps", "-aq", "--filter", f"label={engines.LABEL}={inner.name}"),
            docker("volume", "ls", "-q", "--filter", f"label={engines.LABEL}={inner.name}")]  # fmt: skip
    assert left == ["", ""]


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare the engine before and after the test."""
    if "engine" not in request.fixturenames:
        yield
        return
    inner: Inner = request.getfixturevalue("engine")
    before = inner.held()
    yield
    try:
        deadline = time.monotonic() + 30
        while (after := inner.held()) != before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert after == before
    finally:
        for container in inner.docker("ps", "-aq").split():
            inner.run("rm", "-f", "-v", container, check=False)
        for network in inner.docker("network", "ls", "-q", "--filter", "type=custom").split():
            inner.run("network", "rm", network, check=False)
        for volume in inner.docker("volume", "ls", "-q").split():
            inner.run("volume", "rm", volume, check=False)


@pytest.fixture
def containers(engine: Inner, nothing_left: None) -> Iterator[Callable[..., str]]:
    """Starts containers (see :meth:`Inner.start`); removed afterwards."""
    made: list[str] = []

    def start(name: str, *options: str, **more: tuple[str, ...]) -> str:
        made.append(name)
        return engine.start(name, *options, **more)

    yield start
    for name in made:
        engine.run("rm", "-f", name, check=False)


@pytest.fixture
def attached(engine: Inner, nothing_left: None) -> Iterator[Attached]:
    """A daemon without a cluster, and its network."""
    container = engine.start_daemon()
    yield Attached(container, engine.create_network("tele", container))
    engine.docker("network", "rm", "tele")
    engine.docker("rm", "-f", container)


@pytest.fixture
def other(engine: Inner, nothing_left: None) -> Iterator[str]:
    """A bridge network of the engine's own, on which containers besides are."""
    engine.docker("network", "create", "other")
    yield "other"
    engine.docker("network", "rm", "other")


@pytest.fixture
def gateway(engine: Inner) -> str:
    """This machine's address on its default bridge, where every engine reaches it."""
    found = json.loads(engine.inside("ip", "-j", "route", "show", "default"))
    return str(found[0]["gateway"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is served."""
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def server(engine: Inner, root: Path, gateway: str) -> Iterator[str]:
    """The agent's SFTP server for ``root``, on this machine; its address and port."""
    address = f"{gateway}:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "teleagent.sftp", "--listen", address, "--root", str(root)], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: engine.dial(*address.split(":")), "the SFTP server listens")
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def volume(engine: Inner, nothing_left: None, server: str) -> Iterator[str]:
    """A Telemount volume with ``root`` in it."""
    engine.docker("volume", "create", "-d", "telemount", "-o", f"address={server}", "-o", "cache=0", "data")
    yield "data"
    engine.docker("volume", "rm", "data")
