"""Containers on a Teleroute network, before a daemon that is not connected to a cluster."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

import pytest

from telewire import names
from tests.engines.inner import DRIVER, GATEWAY6, SUBNET6, Attached, Inner, until


def answers(engine: Inner, port: int) -> bool:
    """Whether a published port answers, as another machine sees it."""
    try:
        with urllib.request.urlopen(f"http://{engine.address}:{port}/", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def interfaces(engine: Inner, container: str) -> int:
    """Return how many links a container has besides its loopback."""
    return len(engine.docker("exec", container, "ls", "/sys/class/net").split()) - 1


def test_containers_reach_the_daemon_and_each_other(
    engine: Inner, attached: Attached, containers: Callable[..., str]
) -> None:
    first = containers("first", "--network", attached.network)
    second = containers("second", "--network", attached.network, "--network-alias", "beside")
    address = engine.address_of(first, attached.network)
    assert address.startswith("10.98.0.")
    until(lambda: engine.reaches(first, attached), "the first reaches the daemon")
    until(lambda: engine.reaches(second, attached), "the second reaches the daemon")
    until(lambda: engine.probe(second, "tcp", address, "8080") == "open", "the second reaches the first")
    assert engine.probe(first, "tcp", "beside", "8080") == "open"
    assert engine.probe(first, "tcp", attached.gateway, "81") != "open"
    assert interfaces(engine, first) == 1, "Docker has added a link of its own"


def test_connected_and_disconnected_while_it_runs(
    engine: Inner, attached: Attached, other: str, containers: Callable[..., str]
) -> None:
    one = containers("one", "--network", other, "-p", "18080:8080")
    until(lambda: answers(engine, 18080), "the published port answers")
    for _ in range(2):
        engine.docker("network", "connect", attached.network, one)
        until(lambda: engine.reaches(one, attached), "it reaches the daemon")
        until(lambda: answers(engine, 18080), "the published port answers while connected")
        assert engine.links() == [], "its link is in the container"
        engine.docker("network", "disconnect", attached.network, one)
        assert engine.probe(one, "ping", attached.gateway) != "pong"
        assert interfaces(engine, one) == 1
        until(lambda: answers(engine, 18080), "the published port answers after it was disconnected")
        assert engine.links() == []


def test_published_ports_beside_it_in_any_order(
    engine: Inner, attached: Attached, other: str, containers: Callable[..., str]
) -> None:
    """``tele`` sorts after ``other`` and before ``zz``: an engine gives the default route by name."""
    engine.docker("network", "create", "zz")
    try:
        for number, beside in enumerate((other, "zz", "bridge")):
            name, port = f"on-{beside}", 18081 + number
            engine.docker("create", "--name", name, "--network", beside, "-p", f"{port}:8080", "--init", "--entrypoint",
                          "python3", names.image("agent"), "-m", "http.server", "8080")  # fmt: skip
            engine.docker("network", "connect", attached.network, name)
            engine.docker("start", name)
            until(lambda p=port: answers(engine, p), f"the port of {name} answers")  # type: ignore[misc]
            until(lambda n=name: engine.reaches(n, attached), f"{name} reaches the daemon")  # type: ignore[misc]
            engine.docker("rm", "-f", name)
    finally:
        engine.docker("network", "rm", "zz")


def test_two_families(engine: Inner, containers: Callable[..., str]) -> None:
    container = engine.start_daemon()
    engine.create_network("six", container, "--ipv6", "--subnet", SUBNET6, "--gateway", GATEWAY6)
    one = containers("one", "--network", "six")
    until(lambda: engine.probe(one, "ping", GATEWAY6) == "pong", "it reaches the daemon by IPv6")
    until(lambda: engine.reaches(one, Attached(container, "six")), "it reaches the daemon by IPv4")
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", "six")
    engine.docker("rm", "-f", container)


def test_what_is_wrong_is_told_in_one_line(engine: Inner, attached: Attached) -> None:
    address = engine.address_of(attached.daemon, "bridge")
    nobody = engine.refused("network", "create", "-d", DRIVER, "-o", f"daemon={address}:1", "-o", "token=x", "wrong")
    assert f"no Telepresence daemon answers at {address}:1 (Connection refused)" in nobody
    unknown = engine.refused("network", "create", "-d", DRIVER, "-o", "demon=x", "wrong")
    assert "unknown option" in unknown
    assert "demon" in unknown
    token = engine.refused("network", "create", "-d", DRIVER, "-o", f"daemon={address}:4038", "-o", "token=x", "wrong")
    assert "refuses the token" in token
    untagged = engine.refused("network", "create", "-d", "teleroute", "wrong")
    assert "could not resolve driver teleroute" in untagged
    for text in (nobody, unknown, token, untagged):
        assert len(text.splitlines()) == 1, text


@pytest.mark.parametrize("engine", ["28.5"], indirect=True)
def test_the_daemon_is_gone(engine: Inner, containers: Callable[..., str]) -> None:
    """What is left of a dead connection can be removed at once, with the containers that were on it."""
    container = engine.start_daemon()
    engine.create_network("tele", container)
    one = containers("one", "--network", "tele")
    engine.docker("rm", "-f", container)
    until(lambda: json.loads(engine.docker("inspect", one))[0]["State"]["Running"], "the container goes on")
    said = engine.refused("run", "--rm", "--network", "tele", "debian:trixie-slim", "true")
    assert "no Telepresence daemon answers" in said
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", "tele")
