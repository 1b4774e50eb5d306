"""What people and programs are told of engagements, and which of them ``leave`` means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import describing, leaving
from orchestrator.cli import output
from telewire.errors import BadRequest, NotFound
from tests.orchestrator.standin import engagement


def test_text_for_people() -> None:
    two = [{"local": 8080, "remote": 80, "protocol": "tcp"}, {"local": 53, "remote": 53, "protocol": "udp"}]
    told = describing.describe(engagement(kind="intercept", ports=two, service="front"))
    assert told.splitlines() == [
        "Using Deployment web",
        "   Intercept name: web",
        "   Container name: app",
        "   State         : ACTIVE",
        "   Workload kind : Deployment",
        "   Service       : front",
        "   Intercepting  : web-1 -> the handler",
        "       80 -> 8080 TCP",
        "       53 -> 53 UDP",
    ]
    to_pod = [{"port": 5432, "protocol": "tcp", "address": "10.0.0.1", "forward": 40001}]
    told = describing.describe(engagement(kind="ingest", ports=[], to_pod=to_pod), root="/remote")
    assert told.splitlines()[1:] == [
        "   Container name    : app",
        "   State             : ACTIVE",
        "   Workload kind     : Deployment",
        "   To pod            : localhost:5432 TCP",
        "   Volume Mount Point: /remote",
    ]
    told = describing.describe(engagement(pods=["a", "b"], ports=[]), address="other")
    assert told.splitlines()[-1] == "   Port forwards : none"
    told = describing.describe(engagement(kind="wiretap", pods=["a", "b"]), address="other")
    assert "   Wiretapping   : 2 pods -> other" in told.splitlines()


def test_data_for_programs() -> None:
    mounts = [{"path": "/data", "read_only": False}]
    made = engagement(kind="intercept", mounts=mounts)
    short = describing.brief(made)
    assert short["disposition"] == "ACTIVE"
    assert (short["target_port"], short["container_port"]) == (8080, 80)
    assert "environment" not in short
    whole = describing.whole(made, {"A": "b"}, "/r", "other")
    assert whole["environment"] == {"A": "b"}
    assert whole["mount"] == {"remote_dir": "/", "local_dir": "/r", "mounts": ["/data"]}
    assert whole["target_host"] == "other"
    assert whole.keys() >= {*made, *short}
    json.dumps(whole)


def test_status_has_every_kind() -> None:
    engaged = [
        engagement(kind="wiretap", copies={"sent": 12, "lost": 3}),
        engagement(kind="intercept", name="mine"),
        engagement(kind="ingest", ports=[]),
    ]
    status: Any = {"version": "1", "state": "connected", "context": "c", "server": "s", "engagements": engaged}
    data = output.status_data("dev", {**status, "namespace": "default", "subnets": {}}, None)["daemon"]
    assert [len(data[key]) for key in ("intercepts", "wiretaps", "ingests", "replacements")] == [1, 1, 1, 0]
    assert "environment" not in data["intercepts"][0]
    assert output.status_text({"daemon": data}).splitlines()[-3:] == [
        "  Intercepted: mine, deployment web, container app, active, ports 80->8080/tcp",
        "  Wiretapped : deployment web, container app, active, ports 80->8080/tcp, 12 copies here, 3 lost",
        "  Ingested   : deployment web, container app, active",
    ]
    for nothing in (output.status_data(None, None, None), output.status_data("dev", None, "gone")):
        assert [nothing["daemon"][key] for key in ("intercepts", "wiretaps", "ingests", "replacements")] == [[]] * 4


def test_which_one_is_left() -> None:
    found = [
        engagement(id="1", name="web", workload="web"),
        engagement(id="2", name="copy", workload="web", kind="wiretap"),
        engagement(id="3", name="one", workload="api", container="a"),
        engagement(id="4", name="two", workload="api", container="b"),
    ]
    assert leaving.choose(found, "web")["id"] == "1"
    assert leaving.choose(found, "copy")["id"] == "2"
    assert leaving.choose(found, "3")["id"] == "3"
    assert leaving.choose(found, "api", "b")["id"] == "4"
    with pytest.raises(
        BadRequest, match=r"several engagements; choose by name or ID, or with --container: one \(replace, .* two"
    ):
        leaving.choose(found, "api")
    with pytest.raises(
        NotFound, match=r"no engagement is named 'nope'; there are: web \(replace, container app, ID 1\), copy"
    ):
        leaving.choose(found, "nope")
    with pytest.raises(NotFound, match="'web' of container z"):
        leaving.choose(found, "web", "z")
    with pytest.raises(NotFound, match="there are: none"):
        leaving.choose([], "web")
