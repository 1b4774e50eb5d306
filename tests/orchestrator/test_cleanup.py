"""What a connection has in the real engine is found and removed by label alone."""

from __future__ import annotations

import pytest

from orchestrator import cleanup, network
from orchestrator.engine import Engine
from telewire import names
from telewire.errors import Conflict, NotFound
from tests.orchestrator.conftest import docker

pytestmark = pytest.mark.engine
IMAGE = "debian:trixie-slim"


def labelled(connection: str, role: str) -> list[str]:
    return ["--label", f"{names.LABEL_CONNECTION}={connection}", "--label", f"{names.LABEL_ROLE}={role}"]


def test_everything_goes_and_nothing_else(clean: str, engine: Engine) -> None:
    docker("network", "create", *labelled(clean, "network"), clean)
    docker("volume", "create", *labelled(clean, "volume"), f"{clean}-0")
    docker(
        "run",
        "-d",
        "--init",
        *labelled(clean, "handler"),
        "--network",
        clean,
        "-v",
        f"{clean}-0:/x",
        IMAGE,
        "sleep",
        "99",
    )
    docker("create", *labelled(clean, "tool"), IMAGE, "true")
    docker("run", "-d", "--name", f"tp-{clean}", *labelled(clean, "daemon"), IMAGE, "sleep", "99")
    foreign = docker("run", "-d", "--init", "--name", f"{clean}-foreign", "--network", clean, IMAGE, "sleep", "99")
    assert clean in cleanup.known(engine)
    cleanup.stop_handlers(engine, clean)
    assert [item["State"] for item in engine.containers(clean, "handler")] == ["exited"]
    assert cleanup.remove(engine, clean) == []
    assert clean not in cleanup.known(engine)
    state = engine.inspect(foreign)
    assert state["State"]["Running"]
    assert state["NetworkSettings"]["Networks"] == {}
    assert cleanup.remove(engine, clean) == []


def test_what_cannot_be_removed_is_told(clean: str, engine: Engine) -> None:
    docker("volume", "create", *labelled(clean, "volume"), f"{clean}-0")
    docker("create", "--name", f"{clean}-foreign", "-v", f"{clean}-0:/x", IMAGE, "true")
    with pytest.raises(Conflict):
        cleanup.remove_volume(engine, f"{clean}-0", 0.2)


def test_a_foreign_network_of_that_name_is_left_alone(clean: str, engine: Engine) -> None:
    network.require_name(engine, clean)
    docker("network", "create", clean)
    with pytest.raises(Conflict, match=f"there is a Docker network {clean} that is not ours"):
        network.require_name(engine, clean)
    with pytest.raises(NotFound, match="is gone"):
        network.gateway(engine, clean)


def test_a_plugin_that_is_not_there(unique: str, engine: Engine) -> None:
    with pytest.raises(NotFound, match=f"plugin {unique}:latest is not installed; get it by `make plugins`"):
        engine.require_plugin(f"{unique}:latest")


def test_the_engine_is_found_as_the_docker_command_finds_it(monkeypatch: pytest.MonkeyPatch, unique: str) -> None:
    assert Engine().id == docker("info", "-f", "{{.ID}}")
    monkeypatch.setenv("DOCKER_CONTEXT", unique)
    with pytest.raises(NotFound, match=f"no Docker context '{unique}'"):
        Engine()
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    with Engine() as engine:
        assert engine.api.info()["ID"] == engine.id
