"""What engines do besides the usual order, with real links: calls repeated or left out, IDs used again, deaths in between."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from teleroute.join import link_names
from tests.teleroute.conftest import DAEMON, GENERIC, OPTIONS, Refused, World

pytestmark = pytest.mark.root

NETWORK, OTHER = "a" * 64, "b" * 64
FIRST, SECOND = "1" * 64, "2" * 64


def nothing_left(world: World) -> None:
    """Check that no link of ours is anywhere, and nothing is remembered."""
    assert world.engine.links("tr") == set()
    assert world.daemon.links("te") | world.daemon.links("tb") == set()
    assert world.saved("networks") | world.saved("endpoints") == set()


def attach(world: World, endpoint: str = FIRST, address: str = "10.81.0.2/24", network: str = NETWORK) -> None:
    """Attach a container."""
    world.create_endpoint(network, endpoint, address)
    world.join(network, endpoint, address)


def detach(world: World, endpoint: str = FIRST, network: str = NETWORK) -> None:
    """Detach a container."""
    world.leave(network, endpoint)
    world.delete_endpoint(network, endpoint)


def refusal(world: World, name: str, **body: object) -> str:
    """Make a call that must be refused; return the one line that says why."""
    with pytest.raises(Refused) as found:
        world.call(name, body)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def test_deleted_without_leave_the_link_is_gone_from_the_container_too(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.delete_endpoint(NETWORK, FIRST)
    assert "eth0" not in world.sandboxes[FIRST].links()
    world.call("DeleteNetwork", {"NetworkID": NETWORK})
    nothing_left(world)


def test_joining_twice_gives_a_link_each_time(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.leave(NETWORK, FIRST)
    world.join(NETWORK, FIRST)
    assert world.reaches(FIRST, "10.81.0.1")
    held = world.sandboxes.pop(FIRST)  # by something else than dockerd, so the link was not given back
    try:
        world.join(NETWORK, FIRST)
        assert world.reaches(FIRST, "10.81.0.1")
        assert "eth0" not in held.links()
    finally:
        held.close()
    detach(world)
    for _ in range(2):
        world.leave(NETWORK, FIRST)
        world.delete_endpoint(NETWORK, FIRST)
        world.call("DeleteNetwork", {"NetworkID": NETWORK})
    nothing_left(world)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_plugin_started_anew_knows_everything(world: World, how: signal.Signals) -> None:
    world.create_network(NETWORK)
    world.restart_plugin(how)
    world.create_endpoint(NETWORK, FIRST)
    world.restart_plugin(how)
    world.join(NETWORK, FIRST)
    world.restart_plugin(how)
    assert world.reaches(FIRST, "10.81.0.1")
    attach(world, SECOND, "10.81.0.3/24")
    assert world.reaches(FIRST, "10.81.0.3")
    world.leave(NETWORK, FIRST)
    world.restart_plugin(how)
    world.delete_endpoint(NETWORK, FIRST)
    detach(world, SECOND)
    world.restart_plugin(how)
    world.call("DeleteNetwork", {"NetworkID": NETWORK})
    nothing_left(world)


def test_the_same_network_created_again_keeps_its_containers(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.restart_plugin()
    world.create_network(NETWORK)
    assert world.reaches(FIRST, "10.81.0.1")
    detach(world)
    assert world.saved("networks") == {NETWORK}


def test_ids_are_used_again_with_other_addresses(world: World) -> None:
    for third in (81, 82):
        world.create_network(NETWORK, f"10.{third}.0.0/24", f"10.{third}.0.1/24")
        for fourth in (2, 3):
            attach(world, address=f"10.{third}.0.{fourth}/24")
            assert world.reaches(FIRST, f"10.{third}.0.1")
            detach(world)
        world.call("DeleteNetwork", {"NetworkID": NETWORK})
    nothing_left(world)


def test_the_unknown_is_refused_in_one_line_and_deleted_without_a_word(world: World) -> None:
    assert refusal(world, "CreateEndpoint", NetworkID=NETWORK, EndpointID=FIRST) == (
        "network aaaaaaaaaaaa is unknown to Teleroute (its state was lost); `docker network rm` it and create it again"
    )
    assert refusal(world, "Join", NetworkID=NETWORK, EndpointID=FIRST).startswith("network aaaaaaaaaaaa is unknown")
    world.create_network(NETWORK)
    text = refusal(world, "Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert text == "endpoint 111111111111 is unknown; start the container again"
    for name in ("Leave", "DeleteEndpoint", "RevokeExternalConnectivity"):
        assert world.call(name, {"NetworkID": OTHER, "EndpointID": SECOND}) == {}
    assert world.call("DeleteNetwork", {"NetworkID": OTHER}) == {}
    assert world.saved("networks") == {NETWORK}


def test_an_endpoint_without_an_address_is_refused(world: World) -> None:
    world.create_network(NETWORK)
    nothing = {"Address": "", "AddressIPv6": "", "MacAddress": ""}
    text = refusal(world, "CreateEndpoint", NetworkID=NETWORK, EndpointID=FIRST, Interface=nothing)
    assert text == "Docker gave the endpoint no address; use the default --ipam-driver"
    assert world.saved("endpoints") == set()


def test_a_daemon_started_anew_gets_its_networks_from_the_next_container(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.kill_daemon()
    assert "eth0" not in world.sandboxes[FIRST].links()
    world.start_daemon()
    detach(world)
    attach(world, SECOND)
    assert world.reaches(SECOND, "10.81.0.1")
    detach(world, SECOND)


def test_without_a_daemon_nothing_starts_and_everything_ends(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.create_endpoint(NETWORK, SECOND, "10.81.0.3/24")
    world.kill_daemon()
    text = refusal(world, "Join", NetworkID=NETWORK, EndpointID=SECOND)
    assert text.startswith(f"no Telepresence daemon answers at {DAEMON} (")
    assert world.engine.links("tr") == set()
    detach(world)
    world.delete_endpoint(NETWORK, SECOND)
    world.call("DeleteNetwork", {"NetworkID": NETWORK})
    assert world.saved("networks") | world.saved("endpoints") == set()
    data = [{"Pool": "10.81.0.0/24", "Gateway": "10.81.0.1/24"}]
    text = refusal(world, "CreateNetwork", NetworkID=NETWORK, Options={GENERIC: OPTIONS}, IPv4Data=data)
    assert text.startswith(f"no Telepresence daemon answers at {DAEMON} (")
    assert world.saved("networks") == set()


def test_a_daemon_that_is_silent_holds_nobody_up(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.create_endpoint(NETWORK, SECOND, "10.81.0.3/24")
    world.pause_daemon(paused=True)
    began = time.monotonic()
    text = refusal(world, "Join", NetworkID=NETWORK, EndpointID=SECOND)
    assert text.startswith(f"no Telepresence daemon answers at {DAEMON} (no answer in time)")
    assert time.monotonic() - began < 15
    began = time.monotonic()
    detach(world)
    world.call("DeleteNetwork", {"NetworkID": NETWORK})
    assert time.monotonic() - began < 12
    assert world.engine.links("tr") == set()


def test_what_was_removed_while_the_plugin_was_off_goes_with_its_network(world: World) -> None:
    world.create_network(NETWORK)
    attach(world)
    world.end_plugin()
    world.give_back(FIRST)
    world.start_plugin()
    attach(world, SECOND)
    assert world.reaches(SECOND, "10.81.0.1")
    detach(world, SECOND)
    assert world.engine.links("tr") == {link_names(FIRST)[0]}
    world.call("DeleteNetwork", {"NetworkID": NETWORK})
    nothing_left(world)


def test_many_containers_at_once(world: World) -> None:
    world.create_network(NETWORK)
    world.create_network(OTHER, "10.82.0.0/24", "10.82.0.1/24")
    endpoints = {f"{number:x}" * 64: number for number in range(1, 9)}

    def start(endpoint: str, number: int) -> None:
        network, address = (NETWORK, f"10.81.0.{number + 1}/24") if number % 2 else (OTHER, f"10.82.0.{number + 1}/24")
        attach(world, endpoint, address, network)

    threads = [threading.Thread(target=start, args=pair) for pair in endpoints.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for endpoint, number in endpoints.items():
        assert world.reaches(endpoint, "10.81.0.1" if number % 2 else "10.82.0.1")
        detach(world, endpoint, NETWORK if number % 2 else OTHER)
    for network in (NETWORK, OTHER):
        world.call("DeleteNetwork", {"NetworkID": network})
    nothing_left(world)


def test_mtu_and_hardware_address_are_what_was_asked_for(world: World) -> None:
    world.create_network(NETWORK, mtu="1300")
    assert world.create_endpoint(NETWORK, FIRST) == {"Interface": {"MacAddress": "02:42:0a:51:00:02"}}
    world.join(NETWORK, FIRST)
    told = world.sandboxes[FIRST].ip("link", "show", "eth0")
    assert "mtu 1300" in told
    assert "02:42:0a:51:00:02" in told
    assert world.daemon.ip("link").count("mtu 1300") == 2
    detach(world)
    interface = {"Address": "10.81.0.2/24", "AddressIPv6": "", "MacAddress": "02:aa:bb:cc:dd:ee"}
    body = {"NetworkID": NETWORK, "EndpointID": FIRST, "Interface": interface}
    assert world.call("CreateEndpoint", body) == {"Interface": {}}
    world.join(NETWORK, FIRST)
    assert "02:aa:bb:cc:dd:ee" in world.sandboxes[FIRST].ip("link", "show", "eth0")
    detach(world)
