"""What ``LOCAL[:ID]`` means, what the agent has to listen on, and when it cannot take a container's place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teledaemon.ports import Port, listening, needs_template, redirected, redirecting, resolve, selects
from telewire.errors import BadRequest

Object = dict[str, Any]


def container(*ports: Object, **more: Any) -> Object:
    return {"name": "app", "ports": [dict(port) for port in ports], **more}


def service(*ports: Object, selector: dict[str, str] | None = None) -> Object:
    return {"spec": {"ports": list(ports), "selector": selector or {"app": "x"}}}


WEB = {"containerPort": 8080, "name": "http", "protocol": "TCP"}
METRICS = {"containerPort": 9090, "name": "metrics"}
DNS_UDP = {"containerPort": 53, "name": "dns", "protocol": "UDP"}
DNS_TCP = {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"}
SCTP = {"containerPort": 7000, "protocol": "SCTP"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", Port(8080, 8080, "tcp")),
        ("3000:8080", Port(3000, 8080, "tcp")),
        ("3000:http", Port(3000, 8080, "tcp")),
        ("3000:metrics", Port(3000, 9090, "tcp")),
        ("3000:8080/tcp", Port(3000, 8080, "tcp")),
        ("3000:8080/TCP", Port(3000, 8080, "tcp")),
        ("3000:8080/udp", Port(3000, 8080, "udp")),  # not declared, but plain
        ("3000:7777", Port(3000, 7777, "tcp")),
        ("3000:7777/udp", Port(3000, 7777, "udp")),
        ("1:65535", Port(1, 65535, "tcp")),
        ("3000:53", Port(3000, 53, "udp")),  # the first that is declared
        ("3000:53/tcp", Port(3000, 53, "tcp")),
        ("3000:53/udp", Port(3000, 53, "udp")),
        ("3000:dns-tcp", Port(3000, 53, "tcp")),
        ("53/udp", Port(53, 53, "udp")),
        ("53/tcp", Port(53, 53, "tcp")),
        ("3000:web", Port(3000, 8080, "tcp")),  # names and numbers of a Service's ports
        ("3000:80", Port(3000, 8080, "tcp")),
    ],
)
def test_what_a_port_text_means(text: str, expected: Port) -> None:
    services = [service({"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"})]
    assert resolve([text], container(WEB, METRICS, DNS_UDP, DNS_TCP, SCTP), services) == [expected]


def test_a_lone_local_port_stands_for_the_only_port() -> None:
    assert resolve(["3000"], container(WEB), []) == [Port(3000, 8080, "tcp")]
    assert resolve(["3000/udp"], container(WEB, DNS_UDP), []) == [Port(3000, 53, "udp")]


def test_a_container_without_ports_takes_any_number() -> None:
    assert resolve(["3000", "3001:53/udp"], container(), []) == [Port(3000, 3000, "tcp"), Port(3001, 53, "udp")]
    assert resolve(["3000"], {"name": "app"}, []) == [Port(3000, 3000, "tcp")]


def test_no_text_means_every_port() -> None:
    expected = [Port(8080, 8080, "tcp"), Port(9090, 9090, "tcp"), Port(53, 53, "udp"), Port(53, 53, "tcp")]
    assert resolve([], container(WEB, METRICS, DNS_UDP, DNS_TCP, SCTP), []) == expected
    assert resolve([], container(), []) == []


def test_services_tell_the_ports_of_a_container_that_declares_none() -> None:
    leads = service(
        {"name": "web", "port": 80, "targetPort": 8080}, {"port": 53, "targetPort": 5353, "protocol": "UDP"}
    )
    other = service({"name": "same", "port": 81, "targetPort": 8080})
    assert resolve([], container(), [leads, other]) == [Port(8080, 8080, "tcp"), Port(5353, 5353, "udp")]
    for name in ("web", "same", "80", "81"):
        assert resolve([f"3000:{name}"], container(), [leads, other]) == [Port(3000, 8080, "tcp")]


def test_several_ports_at_once() -> None:
    assert resolve(["3000:http", "3000:53/udp"], container(WEB, DNS_UDP), []) == [
        Port(3000, 8080, "tcp"),
        Port(3000, 53, "udp"),
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["0"], "'0' is no port number"),
        (["65536"], "'65536' is no port number"),
        (["-1"], "'-1' is no port number"),
        ([""], "'' is no port number"),
        (["http"], "'http' is no port number"),
        (["http:8080"], "'http' is no port number"),
        ([":8080"], "'' is no port number"),
        (["٣:8080"], "'٣' is no port number"),
        (["1" * 5000], "is no port number"),
        (["3000:"], "names no port of container app"),
        (["3000:nothing"], "8080/tcp (http)"),
        (["3000:0"], "'0' is no port number"),
        (["3000:70000"], "'70000' is no port number"),
        (["3000:8080/sctp"], "'sctp' is no protocol"),
        (["3000:8080:9090"], "names no port"),
        (["3000"], "its ports are: 8080/tcp (http), 9090/tcp (metrics)"),
        (["3000/udp:8080"], "'3000/udp' is no port number"),
        (["8080", "9000:http"], "port 8080/tcp is given twice"),
    ],
)
def test_what_is_not_clear_is_told_in_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        resolve(texts, container(WEB, METRICS), [])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.text("0123456789:/tcpudhmé ٣", max_size=12), max_size=3))
def test_any_text_is_a_port_or_a_bad_request(texts: list[str]) -> None:
    try:
        found = resolve(texts, container(WEB, DNS_UDP, DNS_TCP), [])
    except BadRequest:
        return
    assert all(0 < port.local < 65536 and 0 < port.remote < 65536 for port in found)
    assert {port.protocol for port in found} <= {"tcp", "udp"}
    assert len({(port.remote, port.protocol) for port in found}) == len(found)


def test_a_service_selects_by_all_of_its_labels() -> None:
    both = service(selector={"app": "x", "tier": "web"})
    assert selects(both, {"app": "x", "tier": "web", "more": "1"})
    assert not selects(both, {"app": "x"})
    assert not selects(both, {"app": "x", "tier": "db"})
    assert not selects({"spec": {"selector": None}}, {"app": "x"})  # its endpoints are somebody's own
    assert not selects({"spec": {}}, {})


def test_the_agent_listens_where_the_kubelet_probes() -> None:
    probed = container(
        WEB,
        METRICS,
        readinessProbe={"httpGet": {"port": "http", "path": "/ready"}},
        livenessProbe={"httpGet": {"port": 8080}},
        startupProbe={"tcpSocket": {"port": "metrics"}},
    )
    assert listening([Port(3000, 8080, "tcp"), Port(53, 53, "udp")], probed) == [
        {"port": 8080, "protocol": "tcp", "probes": ["/", "/ready"]},
        {"port": 53, "protocol": "udp", "probes": []},
        {"port": 9090, "protocol": "tcp", "probes": []},
    ]


def test_a_probe_of_an_unknown_name_is_left_alone() -> None:
    assert listening([], container(WEB, readinessProbe={"tcpSocket": {"port": "nothing"}})) == []
    assert listening([], {"name": "app"}) == []


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, None),
        ({"args": ["--serve"]}, None),
        ({"readinessProbe": {"httpGet": {"port": 80, "scheme": "HTTP"}}}, None),
        ({"livenessProbe": {"tcpSocket": {"port": 80}}}, None),
        ({"command": ["/bin/app"]}, "command of its own"),
        ({"livenessProbe": {"exec": {"command": ["true"]}}}, "livenessProbe"),
        ({"startupProbe": {"grpc": {"port": 80}}}, "startupProbe"),
        ({"readinessProbe": {"httpGet": {"port": 80, "scheme": "HTTPS"}}}, "readinessProbe"),
    ],
)
def test_what_an_image_alone_cannot_replace(spec: Object, why: str | None) -> None:
    told = needs_template({"name": "app", **spec})
    assert told is None if why is None else why in (told or "")


LED = service({"name": "web", "port": 80, "targetPort": "http"})
SIDE = {"name": "side", "ports": [{"containerPort": 9000, "name": "admin"}]}


def test_the_only_port_that_a_service_leads_to_need_not_be_given() -> None:
    assert redirected([], [container(WEB, METRICS), SIDE], [LED], None, 3000) == ([Port(3000, 8080, "tcp")], "app")
    assert redirected([], [container(), SIDE], [], None, 3000) == ([Port(3000, 9000, "tcp")], "side")


def test_several_ports_have_to_be_chosen_from() -> None:
    with pytest.raises(BadRequest, match=r"8080/tcp \(http\), 9090/tcp \(metrics\), 9000/tcp \(admin\)"):
        redirected([], [container(WEB, METRICS), SIDE], [], None, 3000)
    with pytest.raises(BadRequest, match="none"):
        redirected([], [container(SCTP)], [], None, 3000)


def test_the_container_goes_with_the_first_port_unless_it_is_chosen() -> None:
    pod = [container(WEB), SIDE]
    assert redirected(["3000:admin", "3001:http"], pod, [], None, 1)[1] == "side"
    assert redirected(["3000:admin"], pod, [], "app", 1) == ([Port(3000, 9000, "tcp")], "app")
    assert redirected(["3000:7777"], pod, [], None, 1) == ([Port(3000, 7777, "tcp")], "app")
    assert redirected(["3000:80"], pod, [LED], None, 1, of_services=True) == ([Port(3000, 8080, "tcp")], "app")


def test_a_redirected_port_leaves_the_probes_to_the_application() -> None:
    probed = container(WEB, readinessProbe={"httpGet": {"port": "http", "path": "/ready"}})
    assert redirecting([Port(3000, 8080, "tcp"), Port(53, 53, "udp")], [probed, SIDE]) == [
        {"port": 8080, "protocol": "tcp", "probes": ["/ready"]},
        {"port": 53, "protocol": "udp", "probes": []},
    ]
