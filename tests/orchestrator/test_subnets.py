"""The chosen subnet is clear of what is in use."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import subnets
from telewire.errors import Unavailable

TABLE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
"""


def test_routes_are_read_without_the_default() -> None:
    assert [str(network) for network in subnets.host_routes(TABLE)] == ["172.17.0.0/16", "10.0.0.0/8"]


def test_a_vpn_of_all_of_ten_moves_the_choice() -> None:
    assert str(subnets.choose(subnets.host_routes(TABLE))).startswith("172.31.")
    assert str(subnets.choose([])) == "10.255.255.0/24"


@given(
    st.lists(
        st.builds(
            lambda address, prefix: IPv4Network((address, prefix), strict=False),
            st.integers(0x0A000000, 0x0AFFFFFF),
            st.integers(9, 30),
        ),
        max_size=30,
    )
)
def test_the_choice_overlaps_with_nothing(taken: list[IPv4Network]) -> None:
    chosen = subnets.choose(taken)
    assert chosen.prefixlen == 24
    assert chosen.is_private
    assert not any(chosen.overlaps(network) for network in taken)


@pytest.mark.parametrize("taken", [["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], ["0.0.0.0/1", "128.0.0.0/1"]])
def test_no_room_is_told(taken: list[str]) -> None:
    with pytest.raises(Unavailable, match="docker network prune"):
        subnets.choose(subnets.parse(taken))


def test_unique_local_addresses_are_random() -> None:
    one, other = subnets.unique_local(), subnets.unique_local()
    assert one != other
    assert one.prefixlen == 64
    assert one.is_private
