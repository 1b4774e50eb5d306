"""A Compose file with a Teleroute network from outside it, and a Telemount volume of its own."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import yaml

from telewire import names
from tests.engines.inner import Attached, Inner, engines, until

WITH_COMPOSE = [version for version, release in engines.RELEASES.items() if release.compose]


@pytest.mark.parametrize("engine", WITH_COMPOSE, indirect=True)
def test_up_and_down(engine: Inner, attached: Attached, server: str, root: Path) -> None:
    (root / "f").write_text("content")
    file = engine.folder / "compose.yaml"
    file.write_text(yaml.safe_dump({
        "services": {"app": {
            "image": names.image("agent"),
            "pull_policy": "never",
            "entrypoint": ["python3", "-m", "http.server", "8080", "-d", "/mnt"],
            "init": True,
            "networks": {"default": {}, "tele": {}},
            "ports": ["18090:8080"],
            "volumes": [{"type": "volume", "source": "data", "target": "/mnt", "volume": {"nocopy": True}}],
        }},
        "networks": {"tele": {"external": True, "name": attached.network}},
        "volumes": {"data": {"driver": "telemount", "driver_opts": {"address": server, "cache": "0"}}},
    }))  # fmt: skip
    compose = ["docker", "compose", "-p", "shop", "-f", str(file)]

    def fetched() -> str:
        try:
            with urllib.request.urlopen(f"http://{engine.address}:18090/f", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError as error:
            return str(error)

    try:
        for content in ("content", "changed"):
            (root / "f").write_text(content)
            engine.inside(*compose, "up", "-d")
            until(lambda c=content: fetched() == c, "the file comes through volume and published port")  # type: ignore[misc]
            until(lambda: engine.reaches("shop-app-1", attached), "it reaches the daemon")
            engine.inside(*compose, "down", "-v")
        assert engine.docker("volume", "ls", "-q") == ""
    finally:
        engine.inside(*compose, "down", "-v", "-t", "1", check=False)
