"""What three engines really sent, made again: real veth pairs between an engine, a daemon and containers, each in a namespace."""

from __future__ import annotations

import ipaddress
import signal
from pathlib import Path
from typing import Any

import pytest

from teleroute.join import link_names
from tests.teleroute.conftest import OPTIONS, ROUTES, Refused, World
from tests.teleroute.recorded import RECORDINGS, Call, calls

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

DOCKERD_ENDS = ("dockerd TERM", "dockerd KILL")


class Replay:
    """Makes the calls one by one, does what dockerd does between them, and checks what must hold after each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.networks: dict[str, Call] = {}
        self.refused: set[str] = set()
        self.endpoints: dict[str, Call] = {}
        self.joined: set[str] = set()

    def make(self, call: Call) -> None:
        """Make one call."""
        if call.name == "START":
            self.start(call)
        elif call.name == "GwAllocCheck":
            with pytest.raises(Refused, match="not implemented"):
                self.world.call(call.name, call.body)
        elif call.network in self.refused and call.name in ("CreateNetwork", "CreateEndpoint", "Join"):
            with pytest.raises(Refused) as refusal:
                self.world.call(call.name, call.body)
            assert "\n" not in str(refusal.value)
            assert ("subnet" if call.name == "CreateNetwork" else "is unknown to Teleroute") in str(refusal.value)
        else:
            getattr(self, call.name, self.other)(call)

    def start(self, call: Call) -> None:
        """Start the plugin anew; with dockerd the daemon's container ends too, and has its links no more."""
        if call.command in DOCKERD_ENDS:
            self.world.kill_daemon()
            self.world.start_daemon()
        self.world.restart_plugin(
            signal.SIGKILL if "KILL" in call.command or "kill" in call.command else signal.SIGTERM
        )

    def other(self, call: Call) -> None:
        """Make a call that nothing comes of."""
        expected = {
            "EndpointOperInfo": {"Value": {}},
            "GetCapabilities": {"Scope": "local", "ConnectivityScope": "local"},
        }
        assert self.world.call(call.name, call.body) == expected.get(call.name, {})

    def CreateNetwork(self, call: Call) -> None:  # noqa: N802
        """Make a network: it is on the disk, and its gateway is an address of the daemon."""
        assert self.world.call(call.name, call.body) == {}
        self.networks[call.network] = call
        assert call.network in self.world.saved("networks")
        for gateway in call.gateways:
            assert gateway in self.world.daemon.ip("-br", "addr")

    def DeleteNetwork(self, call: Call) -> None:  # noqa: N802
        """Remove a network."""
        assert self.world.call(call.name, call.body) == {}
        self.networks.pop(call.network, None)
        assert call.network not in self.world.saved("networks")

    def CreateEndpoint(self, call: Call) -> None:  # noqa: N802
        """Make an endpoint: it is on the disk, and what Docker chose is not chosen again."""
        answer = self.world.call(call.name, call.body)
        assert call.body is not None
        assert set(answer["Interface"]) == (set() if call.body["Interface"]["MacAddress"] else {"MacAddress"})
        for key, other in self.endpoints.items():
            if other.network == call.network and set(other.addresses) & set(call.addresses):
                self.world.give_back(key)  # its container is gone: the recording does not tell how
        self.endpoints[call.endpoint] = call
        assert call.endpoint in self.world.saved("endpoints")

    def Join(self, call: Call) -> None:  # noqa: N802
        """Join: the container has a link to the daemon, with the routes that its network wants."""
        addresses = self.endpoints[call.endpoint].addresses
        gateways = {
            ipaddress.ip_interface(gateway).version: gateway for gateway in self.networks[call.network].gateways
        }
        hops = {version: str(ipaddress.ip_interface(gateway).ip) for version, gateway in gateways.items()}
        answer = self.world.join(call.network, call.endpoint, *addresses)
        assert answer["DisableGatewayService"] is True
        if self.gateway_wanted(call):
            assert {key: value for key, value in answer.items() if "Gateway" in key and isinstance(value, str)} == {
                {4: "Gateway", 6: "GatewayIPv6"}[version]: hop for version, hop in hops.items()
            }
        else:
            assert [(route["Destination"], route["NextHop"]) for route in answer["StaticRoutes"]] == [
                (route, hops[v]) for route in ROUTES if (v := ipaddress.ip_network(route).version) in hops
            ]
        self.joined.add(call.endpoint)
        for hop in hops.values():
            assert self.world.reaches(call.endpoint, hop), (call, hop)

    def gateway_wanted(self, call: Call) -> bool:
        """Return whether the network of a call was created with gateway=daemon."""
        options: dict[str, Any] = (self.networks[call.network].body or {})["Options"]
        return bool(options["com.docker.network.generic"]["gateway"] == "daemon")

    def Leave(self, call: Call) -> None:  # noqa: N802
        """Leave: the link is back in the engine's namespace."""
        self.world.leave(call.network, call.endpoint)

    def DeleteEndpoint(self, call: Call) -> None:  # noqa: N802
        """Delete an endpoint, after Leave or without: its link is gone on all sides."""
        self.world.delete_endpoint(call.network, call.endpoint)
        self.endpoints.pop(call.endpoint, None)
        self.joined.discard(call.endpoint)
        here, there = link_names(call.endpoint)
        assert call.endpoint not in self.world.saved("endpoints")
        assert here not in self.world.engine.links()
        assert there not in self.world.daemon.links()
        sandbox = self.world.sandboxes.pop(call.endpoint, None)
        if sandbox is not None:
            assert "eth0" not in sandbox.links()
            sandbox.close()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_an_engine_gets_what_it_asks_for_and_nothing_is_left(world: World, path: Path) -> None:
    replay = Replay(world)
    for call in calls(path, OPTIONS):
        if call.name == "CreateNetwork" and not call.gateways:
            replay.refused.add(call.network)
        replay.make(call)
    for key, call in list(replay.endpoints.items()):
        replay.Leave(Call("Leave", {"NetworkID": call.network, "EndpointID": key}, {}, "end"))
        replay.DeleteEndpoint(Call("DeleteEndpoint", {"NetworkID": call.network, "EndpointID": key}, {}, "end"))
    for key in list(replay.networks):
        replay.DeleteNetwork(Call("DeleteNetwork", {"NetworkID": key}, {}, "end"))
    assert world.engine.links("tr") == set()
    assert world.daemon.links("te") | world.daemon.links("tb") == set()
    assert world.saved("networks") | world.saved("endpoints") == set()
