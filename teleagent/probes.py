"""The kubelet's HTTP probes, told from the traffic on the same port by their User-Agent. Sans-io."""

from __future__ import annotations

import enum

HEAD_LIMIT = 16 * 1024
"""Bytes of a request's head that are looked at."""
_METHOD = b"GET "
"""The only method that the kubelet's probes use."""
PROBE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


class Verdict(enum.Enum):
    """What the first bytes of a connection are."""

    UNDECIDED = enum.auto()
    PROBE = enum.auto()
    TRAFFIC = enum.auto()


def judge(head: bytes | bytearray) -> Verdict:
    """Return what begins with ``head``; UNDECIDED if more bytes have to be seen."""
    if head[: len(_METHOD)] != _METHOD[: len(head)]:
        return Verdict.TRAFFIC
    end = head.find(b"\r\n\r\n")
    if end < 0:
        return Verdict.TRAFFIC if len(head) >= HEAD_LIMIT else Verdict.UNDECIDED
    for line in bytes(head[:end]).split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"user-agent":
            return Verdict.PROBE if value.strip().startswith(b"kube-probe/") else Verdict.TRAFFIC
    return Verdict.TRAFFIC
