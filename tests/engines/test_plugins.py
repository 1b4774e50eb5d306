"""The plugins' processes die, and newer ones take their place, while containers use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.inner import Attached, Inner, until
from tests.engines.registry import NEXT, PLUGINS, Registry


@pytest.fixture
def service(engine: Inner, attached: Attached, volume: str, root: Path, containers: Callable[..., str]) -> str:
    """A container on our network with our volume."""
    (root / "f").write_text("content")
    one = containers("service", "--network", attached.network, "-v", f"{volume}:/mnt:nocopy")
    engine.assert_whole(one, attached)
    return one


def process(engine: Inner, plugin: str) -> str:
    """Return the number of a plugin's process."""
    return engine.inside("pgrep", "-f", f"python3 -I -m {plugin}$", check=False)


def test_killed_and_back(engine: Inner, attached: Attached, service: str) -> None:
    for _ in range(2):
        for plugin in PLUGINS:
            before = process(engine, plugin)
            engine.inside("kill", "-KILL", before)
            until(lambda p=plugin, b=before: process(engine, p) not in ("", b), "the plugin is back")  # type: ignore[misc]
        engine.assert_whole(service, attached)
    engine.docker("network", "disconnect", attached.network, service)
    assert engine.probe(service, "ping", attached.gateway) != "pong"
    engine.docker("network", "connect", attached.network, service)
    engine.assert_whole(service, attached)


def test_upgraded(engine: Inner, registry: Registry, attached: Attached, service: str) -> None:
    """A container that runs keeps its network throughout, and has its volume again when it is restarted."""
    with registry.serving(engine.pid):
        for plugin in PLUGINS:
            reference = registry.reference(plugin, NEXT)
            engine.docker("plugin", "disable", "-f", plugin)
            engine.docker("plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", plugin, reference)
            engine.docker("plugin", "enable", plugin)
            assert json.loads(engine.docker("plugin", "inspect", plugin))[0]["PluginReference"] == reference
            until(lambda: engine.reaches(service, attached), "the container that ran reaches the daemon")
    engine.docker("restart", service)
    engine.assert_whole(service, attached)


def test_disabled_by_force_under_a_container_that_is_then_removed(
    engine: Inner, attached: Attached, service: str, volume: str, containers: Callable[..., str]
) -> None:
    """Nobody tells the plugin that the container went; what it had is no hindrance."""
    engine.docker("plugin", "disable", "-f", "telemount")
    engine.docker("rm", "-f", service)
    engine.docker("plugin", "enable", "telemount")
    one = containers("again", "--network", attached.network, "-v", f"{volume}:/mnt:nocopy")
    engine.assert_whole(one, attached)
