"""The options of ``docker network create``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from teleroute.options import Network, Subnet, parse
from telewire.errors import BadRequest
from tests.teleroute.recorded import GENERIC, MTU

GOOD = {"daemon": "172.17.0.2:4038", "token": "secret"}
FOUR = [{"AddressSpace": "LocalDefault", "Pool": "10.81.0.0/24", "Gateway": "10.81.0.1/24"}]
SIX = [{"AddressSpace": "LocalDefault", "Pool": "fd81::/64", "Gateway": "fd81::1/64"}]


def asked(options: dict[str, str] | None, four: Any = FOUR, six: Any = ()) -> Network:
    """Return the network for these options and pools."""
    return parse({"NetworkID": "n", "Options": {GENERIC: options}, "IPv4Data": four, "IPv6Data": list(six or ())})


def refused(options: dict[str, str] | None, four: Any = FOUR) -> str:
    """Return the one line by which it is refused."""
    with pytest.raises(BadRequest) as found:
        asked(options, four)
    assert len(str(found.value).splitlines()) == 1
    assert "secret" not in str(found.value)
    return str(found.value)


def test_the_least_that_is_needed() -> None:
    assert asked(GOOD) == Network(
        "n", "172.17.0.2:4038", "secret", "none", None, (Subnet("10.81.0.0/24", "10.81.0.1/24"),)
    )


def test_everything() -> None:
    network = asked({**GOOD, "gateway": "daemon", "mtu": "1400", "daemon": "[fd00::2]:5000"}, FOUR, SIX)
    assert (network.daemon, network.gateway, network.mtu) == ("[fd00::2]:5000", "daemon", 1400)
    assert [(s.pool, s.gateway, s.version, s.next_hop) for s in network.subnets] == [
        ("10.81.0.0/24", "10.81.0.1/24", 4, "10.81.0.1"),
        ("fd81::/64", "fd81::1/64", 6, "fd81::1"),
    ]
    assert asked(GOOD, None, SIX).subnets[0].version == 6


def test_the_state_file_gives_back_what_was_asked_for() -> None:
    network = asked({**GOOD, "gateway": "daemon", "mtu": "1400"}, FOUR, SIX)
    assert Network.from_json(json.loads(json.dumps(network.as_json()))) == network


def test_the_gateway_has_the_prefix_of_its_pool() -> None:
    assert asked(GOOD, [{"Pool": "10.81.0.0/16", "Gateway": "10.81.0.9"}]).subnets[0].gateway == "10.81.0.9/16"


def test_the_port_may_be_left_out() -> None:
    assert asked({**GOOD, "daemon": "172.17.0.2"}).daemon == "172.17.0.2:4038"


def test_dockers_own_option_for_the_mtu_is_taken_and_ours_comes_first() -> None:
    assert asked({**GOOD, MTU: "1300"}).mtu == 1300
    assert asked({**GOOD, MTU: "1300", "mtu": "1400"}).mtu == 1400


@pytest.mark.parametrize("missing", ["daemon", "token"])
@pytest.mark.parametrize("empty", [True, False])
def test_what_is_missing_is_named(missing: str, empty: bool) -> None:
    options = {key: value for key, value in GOOD.items() if key != missing}
    line = refused({**options, missing: ""} if empty else options)
    assert line.startswith(f"option {missing} is missing: -o daemon=ADDRESS:PORT -o token=TOKEN")
    assert "`telepresence connect --docker`" in line


def test_no_options_at_all() -> None:
    assert refused(None).startswith("option daemon is missing")
    assert refused({}).startswith("option daemon is missing")
    with pytest.raises(BadRequest, match="option daemon is missing"):
        parse({"NetworkID": "n"})


@pytest.mark.parametrize(
    "daemon",
    ["x", "localhost:4038", "172.17.0.2:0", "172.17.0.2:65536", "172.17.0.2:http", "fd00::2", ":4038", "1.2.3:4"],
)
def test_a_daemon_that_is_no_address(daemon: str) -> None:
    assert refused({**GOOD, "daemon": daemon}) == (
        f"option daemon={daemon!r} is no ADDRESS:PORT; give where the daemon's control API listens"
    )


@pytest.mark.parametrize("token", ["secret\nX: y", "secret key", "secrét", "secret\x7f"])
def test_a_token_that_fits_no_header(token: str) -> None:
    line = refused({**GOOD, "token": token})
    assert line == "option token has characters that no token has; give the daemon's TELEPRESENCE_TOKEN"


@pytest.mark.parametrize("gateway", ["yes", "Daemon", "10.81.0.1"])
def test_a_gateway_that_is_none(gateway: str) -> None:
    assert refused({**GOOD, "gateway": gateway}) == f"option gateway={gateway!r} is unknown; use none or daemon"


@pytest.mark.parametrize("mtu", ["575", "65536", "-1500", "1500.0", "big", "1 500"])
def test_an_mtu_that_is_none(mtu: str) -> None:
    assert refused({**GOOD, "mtu": mtu}) == f"option mtu={mtu!r} is no number from 576 to 65535"


def test_unknown_options_are_named_with_those_there_are() -> None:
    line = refused({**GOOD, "deamon": "x", "a\nb": "y"})
    assert line == (
        r"unknown option 'a\nb', 'deamon'; Teleroute knows daemon, token, gateway, mtu (docker network create -o)"
    )


def test_a_network_without_a_gateway() -> None:
    line = refused(GOOD, [{"AddressSpace": "null", "Pool": "0.0.0.0/0"}])
    assert line == (
        "the network has no subnet with a gateway (pool '0.0.0.0/0', gateway None): "
        "leave --ipam-driver at its default, or give --subnet and --gateway"
    )


def test_a_network_without_a_subnet() -> None:
    assert refused(GOOD, []).startswith("the network has no subnet; give --subnet")
    assert refused(GOOD, None).startswith("the network has no subnet; give --subnet")
