"""``--port`` and ``--to-pod``: what is passed on, and one line for what cannot be right."""

from __future__ import annotations

import pytest

from orchestrator import portwords
from telewire.errors import BadRequest


def test_ports() -> None:
    given = ["8080", "9090:http,53:53/udp", "1:65535/TCP"]
    assert portwords.ports(given) == ["8080", "9090:http", "53:53/udp", "1:65535/tcp"]
    assert portwords.ports([]) == []
    assert portwords.to_pod(["5432", "53/UDP,80/tcp"]) == ["5432", "53/udp", "80"]
    assert [portwords.pair(text) for text in ("8080:http", "53:53/udp", "80")] == [
        (8080, "tcp"),
        (53, "udp"),
        (80, "tcp"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty value"),
        ("8080,", "empty value"),
        ("0", "number from 1 to 65535, not '0'"),
        ("65536:80", "not '65536'"),
        ("http", "LOCAL is a number"),
        ("8080:70000", "ID is a number"),
        ("8080:", "'' is neither"),
        ("8080:a b", "'a b' is neither"),
        ("8080:80/sctp", "'sctp' is no protocol"),
        ("8080:80:http", "three parts, which is for a daemon outside Docker"),
        ("80,80", "given twice"),
        ("-1", "not '-1'"),
        ("٣", "number"),
    ],
)
def test_bad_ports(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as error:
        portwords.ports([text])
    assert "\n" not in str(error.value)
    assert "--port" in str(error.value)


@pytest.mark.parametrize("text", ["", "x", "80:80", "80/", "80/sctp", "0", "80,80/tcp"])
def test_bad_to_pod(text: str) -> None:
    with pytest.raises(BadRequest, match="--to-pod"):
        portwords.to_pod([text])


def test_a_port_cannot_be_the_handlers_and_the_pods() -> None:
    portwords.check_apart([(80, "tcp")], [(80, "udp"), (81, "tcp")])
    with pytest.raises(BadRequest, match=r"localhost:80 \(tcp\) .* choose another LOCAL in --port"):
        portwords.check_apart([(80, "tcp")], [(80, "tcp")])
