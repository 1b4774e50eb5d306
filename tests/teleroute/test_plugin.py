"""The installed plugin on the real engine, with a daemon's container that is connected to no cluster."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import uuid
from collections.abc import Iterator

import pytest

from telewire import names
from tests.teleroute.conftest import until
from tests.teleroute.engine import Daemon, Engine, address_of, docker, inside, name, plugin_process, reaches

pytestmark = [pytest.mark.root, pytest.mark.engine]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A daemon that no test ends."""
    made = Daemon()
    yield made
    made.close()


@pytest.fixture
def engine(shared: Daemon) -> Iterator[Engine]:
    """The engine; afterwards nothing of the test is left there."""
    made = Engine(shared)
    try:
        yield made
    finally:
        made.close()
    assert shared.status()["networks"] == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "option daemon is missing: -o daemon=ADDRESS:PORT -o token=TOKEN name the daemon whose network this is; "),
        (["daemon=127.0.0.1:1"], "option token is missing: "),
        (["daemon=nowhere", "token=x"], "option daemon='nowhere' is no ADDRESS:PORT; "),
        (["daemon=127.0.0.1:1", "token=x", "gateway=yes"], "option gateway='yes' is unknown; use none or daemon"),
        (["daemon=127.0.0.1:1", "token=x", "mtu=big"], "option mtu='big' is no number from 576 to 65535"),
        (["daemon=127.0.0.1:1", "token=x", "tokn=x"], "unknown option 'tokn'; Teleroute knows "),
        (["daemon=127.0.0.1:1", "token=x"], "no Telepresence daemon answers at 127.0.0.1:1 (Connection refused): "),
    ],
)
def test_bad_options_are_refused_in_one_line(options: list[str], why: str) -> None:
    made = name()
    given = [part for option in options for part in ("-o", option)]
    said = docker("network", "create", "-d", names.TELEROUTE_PLUGIN, *given, made, check=False)
    assert said.startswith(f"Error response from daemon: NetworkDriver.CreateNetwork: {why}")
    assert len(said.splitlines()) == 1
    assert made not in docker("network", "ls", "--format", "{{.Name}}").split()


def test_a_wrong_token_and_a_network_without_a_gateway_are_refused(engine: Engine) -> None:
    options = [f"{option}x" if option.startswith("token=") else option for option in engine.daemon.options()]
    said = docker("network", "create", *options, name(), check=False)
    assert said.endswith(f"the daemon at {engine.daemon.address}:4038 refuses the token; check the option token")
    said = docker("network", "create", *engine.daemon.options(), "--ipam-driver", "null", name(), check=False)
    assert "leave --ipam-driver at its default, or give --subnet and --gateway" in said


def test_a_container_is_attached(engine: Engine) -> None:
    network, gateway = engine.network("mtu=1400")
    container = engine.start("--network", network)
    address = address_of(container, network)
    (link,) = [link for link in json.loads(inside(container, "ip", "-j", "addr")) if link["ifname"] != "lo"]
    assert link["ifname"] == "eth0"
    assert link["mtu"] == 1400
    assert [found["local"] for found in link["addr_info"] if found["family"] == "inet"] == [address]
    assert address_of(container, network, "MacAddress") == link["address"]
    assert "default" not in inside(container, "ip", "route")
    assert reaches(container, gateway)
    (told,) = engine.daemon.status()["networks"]
    assert [found["addresses"] for found in told["endpoints"].values()] == [[address]]
    docker("restart", "-t", "0", container)
    assert reaches(container, gateway)
    docker("rm", "-f", container)
    assert engine.daemon.status()["networks"] == [{**told, "endpoints": {}}]


def test_containers_reach_each_other_by_name(engine: Engine) -> None:
    network, _ = engine.network()
    first, second = engine.start("--network", network), engine.start("--network", network)
    script = f"import urllib.request as u; print(u.urlopen('http://{second}:8000/').status)"
    assert docker("exec", first, "python3", "-c", script) == "200"


def test_the_daemon_can_be_the_gateway(engine: Engine) -> None:
    network, gateway = engine.network("gateway=daemon")
    container = engine.start("--network", network)
    assert f"default via {gateway} dev eth0" in inside(container, "ip", "route")


def test_ipv6(engine: Engine) -> None:
    prefix = f"fd{uuid.uuid4().hex[:2]}:{uuid.uuid4().hex[:4]}"
    network, _ = engine.network(more=("--ipv6", "--subnet", f"{prefix}::/64", "--gateway", f"{prefix}::1"))
    container = engine.start("--network", network)
    assert reaches(container, f"{prefix}::1")


@pytest.mark.parametrize("order", ["before", "after"])
def test_published_ports_of_the_other_network_keep_working(engine: Engine, order: str) -> None:
    network, gateway = engine.network()
    container = engine.start("--network", network if order == "before" else "bridge", "-p", "127.0.0.1::8000")
    docker("network", "connect", "bridge" if order == "before" else network, container)

    def answers() -> bool:
        port = docker("port", container, "8000/tcp").rpartition(":")[2]
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    until(answers)
    assert reaches(container, gateway)
    assert "default via" in inside(container, "ip", "route")
    docker("network", "disconnect", network, container)
    assert answers()
    assert not reaches(container, gateway)
    docker("network", "connect", network, container)
    assert answers()
    assert reaches(container, gateway)


def test_the_plugin_is_killed(engine: Engine) -> None:
    network, gateway = engine.network()
    first = engine.start("--network", network)
    before = plugin_process()
    os.kill(before, signal.SIGKILL)
    assert reaches(first, gateway)
    until(lambda: plugin_process() not in (0, before))
    second = engine.start("--network", network)
    assert reaches(second, gateway)
    assert reaches(first, address_of(second, network))
    docker("rm", "-f", first)
    docker("restart", "-t", "0", second)
    assert reaches(second, gateway)


@pytest.fixture
def own() -> Iterator[Engine]:
    """The engine with a daemon that the test may end; it has a fixed address."""
    network, prefix = name(), f"10.199.{secrets.randbelow(256)}"
    docker("network", "create", "--subnet", f"{prefix}.0/24", network)
    try:
        daemon = Daemon(network, f"{prefix}.9")
        made = Engine(daemon)
        try:
            yield made
        finally:
            daemon.close()
            made.close()
    finally:
        docker("network", "rm", network)


def test_a_daemon_that_is_removed_leaves_nothing_that_cannot_be_removed(own: Engine) -> None:
    network, _ = own.network()
    container = own.start("--network", network, "-p", "127.0.0.1::8000")
    stopped = own.start("--network", network)
    docker("stop", "-t", "0", stopped)
    address = own.daemon.address
    own.daemon.close()
    until(lambda: "eth0" not in inside(container, "ip", "link"), 30)  # the kernel takes its time
    said = docker("start", stopped, check=False)
    assert f"no Telepresence daemon answers at {address}:4038 (" in said
    assert "`telepresence connect --docker` starts it anew" in said
    assert docker("rm", "-f", container, stopped).split() == [container, stopped]
    assert docker("network", "rm", network) == network


def test_a_daemon_that_is_started_again_at_its_address_takes_the_containers_that_are(own: Engine) -> None:
    network, gateway = own.network()
    container = own.start("--network", network)
    docker("restart", "-t", "0", own.daemon.name)
    until(lambda: own.daemon.status(), 30)
    until(lambda: "eth0" not in inside(container, "ip", "link"), 30)
    docker("restart", "-t", "0", container)
    assert reaches(container, gateway)
