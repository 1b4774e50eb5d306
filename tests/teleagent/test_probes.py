from __future__ import annotations

import pytest

from teleagent.probes import HEAD_LIMIT, Verdict, judge

PROBE = b"GET /healthz HTTP/1.1\r\nHost: 10.244.0.4:8080\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n"


def test_a_probe_is_told_at_its_last_byte_and_not_before() -> None:
    assert judge(PROBE) is Verdict.PROBE
    for end in range(len(PROBE)):
        assert judge(PROBE[:end]) is Verdict.UNDECIDED


def test_header_names_have_no_case() -> None:
    assert judge(PROBE.replace(b"User-Agent", b"user-agent")) is Verdict.PROBE


@pytest.mark.parametrize(
    "head",
    [
        PROBE.replace(b"kube-probe/1.34", b"curl/8"),
        PROBE.replace(b"kube-probe/", b"my-kube-probe/"),
        PROBE.replace(b"User-Agent: ", b"X-Agent: "),
        b"GET / HTTP/1.0\r\n\r\nUser-Agent: kube-probe/1.34\r\n\r\n",
        b"GET /?User-Agent:kube-probe/ HTTP/1.1\r\n\r\n",
    ],
)
def test_other_requests_are_traffic(head: bytes) -> None:
    assert judge(head) is Verdict.TRAFFIC


@pytest.mark.parametrize("head", [b"P", b"GEX", b"\x16\x03\x01", b"PRI * HTTP/2.0", b"GET\t"])
def test_what_cannot_be_a_probe_is_not_waited_for(head: bytes) -> None:
    assert judge(head) is Verdict.TRAFFIC


def test_a_head_without_end_is_traffic() -> None:
    head = b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_LIMIT
    assert judge(head[: HEAD_LIMIT - 1]) is Verdict.UNDECIDED
    assert judge(head) is Verdict.TRAFFIC
