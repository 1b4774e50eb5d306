"""The VIF's rules as nft(8) reads them."""

from __future__ import annotations

import asyncio
import subprocess
from ipaddress import ip_network

import pytest

from teledaemon import nat
from telewire.errors import Unavailable

OWN = {4: "198.18.0.1", 6: "fd00:7e1e::1"}
FOUR = [ip_network("10.96.0.0/16"), ip_network("10.244.0.0/16")]
SIX = [ip_network("fd00:10:96::/112")]


def test_only_the_first_packet_goes_without_conntrack() -> None:
    rules = nat.ruleset("tel0", OWN, 15001, FOUR)
    assert 'iifname != "tel0" ip daddr @subnets4 tcp flags & (fin|syn|rst|ack) == syn notrack' in rules
    assert 'iifname "tel0" ip daddr @subnets4 meta l4proto tcp dnat ip to 198.18.0.1:15001' in rules
    assert "elements = { 10.96.0.0/16, 10.244.0.0/16 }" in rules
    assert "ip6" not in rules


def test_each_family_has_its_own_set_and_address() -> None:
    rules = nat.ruleset("tel0", OWN, 15001, [*FOUR, *SIX])
    assert "subnets6 { type ipv6_addr; flags interval; elements = { fd00:10:96::/112 } }" in rules
    assert "dnat ip6 to [fd00:7e1e::1]:15001" in rules
    assert "subnets6" not in nat.ruleset("tel0", {4: OWN[4]}, 15001, [*FOUR, *SIX])


def test_a_table_is_replaced_in_one_transaction() -> None:
    rules = nat.ruleset("tel0", OWN, 15001, FOUR).splitlines()
    assert rules[:3] == ["table inet telepresence", "delete table inet telepresence", "table inet telepresence {"]


@pytest.mark.root
@pytest.mark.parametrize("networks", [[], FOUR, SIX, [*FOUR, *SIX]])
def test_the_kernel_takes_the_rules_again_and_again(networks: list[nat.Network]) -> None:
    rules = nat.ruleset("tel0", OWN, 15001, networks)
    script = "nft -f - && nft list table inet telepresence"
    listed = subprocess.run(
        ["unshare", "--net", "sh", "-ec", script],
        input=rules * 2,
        text=True,
        check=True,
        capture_output=True,
        timeout=20,
    ).stdout
    assert all(str(network) in listed for network in networks)
    assert listed.count("notrack") == 2 * len({network.version for network in networks})
    assert listed.count("dnat") == len({network.version for network in networks})


async def test_what_nft_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    real = asyncio.create_subprocess_exec

    async def check_only(*command: str, **more: object) -> asyncio.subprocess.Process:
        ran.append(command)
        return await real("nft", "--check", *command[1:], **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", check_only)
    with pytest.raises(Unavailable, match=r"the kernel refuses the VIF's NAT rules: .*syntax error") as caught:
        await nat.apply("table inet telepresence { nonsense }\n")
    assert "\n" not in str(caught.value)
    assert ran == [("nft", "-f", "-")]
