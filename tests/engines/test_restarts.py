"""The engine goes away and comes back: what was there is usable again, and nothing stale is in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.inner import DEBIAN, Attached, Inner


@pytest.fixture
def service(
    engine: Inner, attached: Attached, other: str, volume: str, root: Path, containers: Callable[..., str]
) -> str:
    """A container that has to come back by itself: on a bridge and on our network, with our volume."""
    (root / "f").write_text("content")
    one = containers("service", "--restart", "always", "--network", other, "-v", f"{volume}:/mnt:nocopy")
    engine.docker("network", "connect", attached.network, one)
    engine.assert_whole(one, attached)
    return one


@pytest.fixture(scope="module")
def live_restore(engine: Inner) -> Iterator[None]:
    """The engine leaves containers alone when it ends."""
    engine.set_flags("--live-restore")
    engine.restart()
    yield
    engine.set_flags()
    engine.restart()


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_it_comes_back_with_the_engine(engine: Inner, attached: Attached, service: str, signal: str) -> None:
    engine.restart(signal)
    engine.assert_whole(service, attached)


def test_it_comes_back_after_a_reboot(engine: Inner, attached: Attached, service: str) -> None:
    engine.reboot()
    engine.assert_whole(service, attached)


def test_nothing_stale_is_in_the_way_after_a_reboot(
    engine: Inner, volume: str, server: str, root: Path, containers: Callable[..., str]
) -> None:
    """The daemon and a container with network and volume are lost: both can be removed, and used anew under their names."""
    (root / "f").write_text("content")
    daemon = engine.start_daemon()
    engine.docker("update", "--restart", "no", daemon)
    engine.create_network("tele", daemon)
    engine.start("lost", "--network", "tele", "-v", f"{volume}:/mnt:nocopy")
    engine.reboot()
    assert engine.docker("ps", "-q") == ""
    engine.docker("rm", "lost")
    engine.docker("network", "rm", "tele")
    engine.docker("rm", daemon)
    engine.docker("volume", "rm", volume)
    engine.docker("volume", "create", "-d", "telemount", "-o", f"address={server}", volume)
    daemon = engine.start_daemon()
    attached = Attached(daemon, engine.create_network("tele", daemon))
    one = containers("again", "--network", "tele", "-v", f"{volume}:/mnt:nocopy")
    engine.assert_whole(one, attached)
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", "tele")
    engine.docker("rm", "-f", daemon)


# The last ones, since the engine has to be started again for them.


def test_it_goes_on_with_live_restore(engine: Inner, live_restore: None, attached: Attached, service: str) -> None:
    started = engine.docker("inspect", "-f", "{{.State.StartedAt}}", service)
    for signal in ("TERM", "KILL"):
        engine.restart(signal)
        assert engine.docker("inspect", "-f", "{{.State.StartedAt}}", service) == started, "the container was restarted"
        engine.assert_whole(service, attached)
    engine.docker("restart", service)
    engine.assert_whole(service, attached)


def test_live_restore_while_nothing_runs(engine: Inner, live_restore: None, root: Path, volume: str) -> None:
    """The engine takes the plugin's mount away and keeps the plugin; no container may get a directory of the engine's instead."""
    (root / "f").write_text("content")
    engine.restart("TERM")
    reading = ["run", "--rm", "-v", f"{volume}:/mnt:nocopy", DEBIAN, "cat", "/mnt/f"]
    said = engine.refused(*reading)
    assert "no such file or directory" in said
    engine.docker("plugin", "disable", "-f", "telemount")
    engine.docker("plugin", "enable", "telemount")
    assert engine.docker(*reading) == "content"
